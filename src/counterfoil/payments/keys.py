"""Keys and references that a gateway knows our calls by: the same for the same request of a client, for ever."""

from __future__ import annotations

import hmac

from counterfoil.infrastructure.key_store import PAYMENT_KEYS, named_key


def hash_client_key(principal: str, client_key: str) -> str:
    """Return what is stored of a client's key: the same for the same key, and nothing of its text."""
    return _digest("client", principal, client_key)[:48]


def gateway_key(*, principal: str, client_key: str, purpose: str, generation: int) -> str:
    """Return the idempotency key of a call. `client_key` is the stored hash.

    It comes from the client's key and not from a row's number: after a restore to an earlier moment, the client's retry
    still meets what the gateway has done. Its secret is in the key store, so it survives a new signing secret.
    """
    return "cf-" + _digest("call", principal, client_key, purpose, str(generation))[:48]


def payment_reference(*, order_id: int, principal: str, client_key: str, generation: int) -> str:
    """Return our name of a payment at the gateway; it begins with the order's number, for whoever reads it there."""
    return f"o{order_id}-{_digest('payment', principal, client_key, str(generation))[:24]}"


def refund_reference(payment: str, *, principal: str, client_key: str) -> str:
    """Return our name of a refund at the gateway; it begins with the payment's."""
    return f"{payment}-r{_digest('refund', payment, principal, client_key)[:12]}"


def _digest(*parts: str) -> str:
    # Lengths before the parts: no two lists of parts give the same text.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hmac.digest(named_key(PAYMENT_KEYS), text.encode(), "sha256").hex()
