"""Every column that can hold something personal, with the step that erases it; every other column that holds text.

A test compares both lists with the database: a column that is added must be put into one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_PROFILE: Final = ("phone", "address_line1", "address_line2", "postal_code", "city", "country_code")

# table.column → the step of an erasure (services.STEPS) after which it holds nothing about the person.
PERSONAL: Final[Mapping[str, str]] = {
    "users.email": "forget_person",
    "users.email_index": "forget_person",
    "users.name": "forget_person",
    "users.password": "close_account",
    **{f"profiles.{column}": "forget_person" for column in _PROFILE},
    # How the account was used: sign-ins and links are deleted; a key keeps its row, and loses its name.
    "refresh_tokens.token_hash": "close_account",
    "sign_ins.revoke_reason": "close_account",
    "sign_ins.address_hash": "close_account",
    "one_time_tokens.token_hash": "close_account",
    "one_time_tokens.purpose": "close_account",
    "api_keys.name": "close_account",
    # Answers about a person are sealed; keys are the client's own text; the scope of a registration is an index.
    "idempotency_keys.response_body": "forget_answers",
    "idempotency_keys.key": "forget_answers",
    "idempotency_keys.principal": "forget_answers",
    "idempotency_keys.fingerprint": "forget_answers",
}

# What is kept: facts of sales that the law wants kept, and texts about things, machines and staff's work. People
# appear in them as a number (`user:12`), which means nothing once the account is empty.
NOT_PERSONAL: Final[Mapping[str, str]] = {
    "users.role": "what the account may do",
    "orders.currency": "fact of the sale",
    "orders.status": "fact of the sale",
    "orders.payment_status": "fact of the sale",
    "orders.fulfillment_status": "fact of the sale",
    "orders.return_status": "fact of the sale",
    "orders.client_reference": "number of the sale in the client's books, in the characters of a number (ADR 0008)",
    "order_items.sku": "fact of the sale",
    "order_items.name": "the product's name as sold",
    "adjustments.kind": "fact of the sale",
    "adjustments.label": "fact of the sale",
    "coupons.code": "made by staff for many",
    "coupons.kind": "about a coupon",
    "coupons.currency": "about a coupon",
    "products.sku": "about a product",
    "products.name": "about a product",
    "products.description": "about a product",
    "products.category": "about a product",
    "products.currency": "about a product",
    "stock_levels.location": "about stock",
    "stock_movements.kind": "about stock",
    "stock_movements.actor": "an account's number",
    "stock_movements.reason": "about stock, written by staff",
    "outbox_events.aggregate": "kind of thing",
    "outbox_events.type": "kind of event",
    "outbox_events.payload": "facts of the sale, ids and amounts (ADR 0008)",
    "outbox_events.actor": "an account's number",
    "outbox_events.cause": "id of a request",
    "audit_entries.actor": "an account's number",
    "audit_entries.action": "kind of action",
    "audit_entries.target": "kind of thing",
    "audit_entries.request_id": "id of a request",
    "audit_entries.reason": "why something was done, written by code and staff",
    "audit_entries.changes": "names of fields, ids, numbers; of personal columns a SHA-256 of ciphertext, or `hidden`",
    "audit_entries.target_key": "id of a thing that has no number",
    "audit_entries.before_hash": "SHA-256 of a row in which personal columns are ciphertext",
    "audit_entries.after_hash": "SHA-256 of a row in which personal columns are ciphertext",
    "audit_seals.entry_ids": "numbers of entries",
    "audit_seals.hashes": "the chain over the entries",
    "api_keys.prefix": "the beginning of a random text, dead with the account",
    "api_keys.secret_hash": "SHA-256 of a random text, dead with the account",
    "api_keys.scopes": "what the key could do",
    "api_keys.created_by": "an account's number",
    "erasure_requests.requested_by": "an account's number",
    "erasure_requests.step": "how far an erasure is",
    "erasure_requests.deferred_reason": "numbers and states of orders",
    "rate_limits.key": "an account's number, or keyed hashes of addresses; until the window ends",
    "django_admin_log.object_id": "never written: the console changes nothing",
    "django_admin_log.object_repr": "never written: the console changes nothing",
    "django_admin_log.change_message": "never written: the console changes nothing",
    "django_session.session_key": "SHA-256 of a random text, the cookie's",
    "django_session.session_data": "an account's number, signed; dead once the password is",
    "django_content_type.app_label": "Django's own",
    "django_content_type.model": "Django's own",
    "django_migrations.app": "Django's own",
    "django_migrations.name": "Django's own",
    "auth_permission.name": "Django's own",
    "auth_permission.codename": "Django's own",
    "auth_group.name": "Django's own, unused",
}
