"""Keys and references at the gateway: the same for the same request, whatever else changes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import psycopg
import pytest

from counterfoil.infrastructure.database import run_in_thread
from counterfoil.payments import keys

CLIENT_KEY = "client-key-of-a-test"


def make_key(**values: object) -> str:
    arguments = {"principal": "user:7", "client_key": "hash", "purpose": "authorise:sandbox", "generation": 1, **values}
    return str(run_in_thread(lambda: keys.gateway_key(**arguments)))  # type: ignore[arg-type]


@pytest.mark.usefixtures("django_ready")
def test_a_key_is_the_same_for_the_same_call_and_differs_for_every_other() -> None:
    assert make_key() == make_key()
    others = [
        make_key(principal="user:8"),
        make_key(client_key="other"),
        make_key(purpose="authorise:stripe"),
        make_key(purpose="capture:o1-x"),
        make_key(generation=2),
        make_key(principal="user:7authorise", purpose=":sandbox"),
    ]

    assert len({make_key(), *others}) == 7


@pytest.mark.usefixtures("django_ready")
def test_what_is_stored_of_a_clients_key_does_not_tell_it() -> None:
    stored = run_in_thread(keys.hash_client_key, "user:7", CLIENT_KEY)

    assert (len(stored), stored.isalnum()) == (48, True)
    assert stored == run_in_thread(keys.hash_client_key, "user:7", CLIENT_KEY)
    assert stored != run_in_thread(keys.hash_client_key, "user:8", CLIENT_KEY)


@pytest.mark.usefixtures("django_ready")
def test_references_name_the_order_and_are_carried_by_every_gateway() -> None:
    from counterfoil.payments.gateways.base import check_identifiers

    longest = 2**63 - 1
    payment = run_in_thread(
        lambda: keys.payment_reference(order_id=longest, principal="user:7", client_key="hash", generation=1)
    )
    refund = run_in_thread(lambda: keys.refund_reference(payment, principal="user:7", client_key="hash"))

    assert payment.startswith(f"o{longest}-")
    assert refund.startswith(f"{payment}-r")
    assert len(refund) <= 64
    check_identifiers(payment=payment, refund=refund, key=make_key())


def test_keys_survive_a_new_signing_secret_and_a_restore_that_forgot_the_payment(
    make_database: Callable[[], str],
) -> None:
    url = make_database()
    program = (
        "import django; django.setup()\n"
        "from counterfoil.payments.keys import gateway_key, hash_client_key, payment_reference\n"
        f"client = hash_client_key('user:7', '{CLIENT_KEY}')\n"
        "print(gateway_key(principal='user:7', client_key=client, purpose='authorise:sandbox', generation=1))\n"
        "print(payment_reference(order_id=1, principal='user:7', client_key=client, generation=1))\n"
    )

    def ask(secret: str) -> str:
        environment = {**os.environ, "DATABASE_URL": url, "COUNTERFOIL_SECRET": secret}
        ended = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        return ended.stdout

    before = ask("a-signing-secret-that-is-replaced-later-on")
    with psycopg.connect(url, autocommit=True) as database:
        assert database.execute("SELECT count(*) FROM payments").fetchone() == (0,)

    assert ask("the-signing-secret-that-has-replaced-it-now") == before
