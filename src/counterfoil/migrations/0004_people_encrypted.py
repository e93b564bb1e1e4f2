"""Personal fields become ciphertext, each person's under a key of their own, and addresses get a blind index."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import django.contrib.postgres.functions
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

from counterfoil.infrastructure import key_store
from counterfoil.infrastructure.migration_operations import set_timeouts
from counterfoil.users.sealing import ACCOUNT_FIELDS, PROFILE_FIELDS, open_field, seal_field

# People whose fields are sealed with one query for their keys and one statement per table.
BATCH = 500
USERS = {"email": 255, "name": 255}
PROFILES = {
    "phone": 32, "address_line1": 255, "address_line2": 255, "postal_code": 20, "city": 120, "country_code": 2,
}


def to_bytes(table: str, columns: dict[str, int], *, default: str) -> migrations.RunSQL:
    """Turn text columns into bytea in place, one rewrite of the table, and back."""
    forward = ", ".join(
        f"ALTER {name} DROP DEFAULT, ALTER {name} DROP NOT NULL, ALTER {name} TYPE bytea USING convert_to({name}, 'UTF8')"
        for name in columns
    )
    backward = ", ".join(
        f"ALTER {name} TYPE varchar({length}) USING convert_from(coalesce({name}, ''), 'UTF8'),"
        f" ALTER {name} SET NOT NULL" + default.format(name=name)
        for name, length in columns.items()
    )
    return migrations.RunSQL(
        f"ALTER TABLE {table} {forward}",
        f"ALTER TABLE {table} {backward}",
        state_operations=[
            migrations.AlterField(table.removesuffix("s").capitalize(), name, models.BinaryField(null=True))
            for name in columns
        ],
    )


def seal_people(apps: Any, schema_editor: Any) -> None:
    """Seal every account and profile."""
    key_store.prepare_store()
    with schema_editor.connection.cursor() as cursor:
        # Answers about people that were stored in the clear live for days only, and their keys' scope was a plain hash.
        cursor.execute(
            "DELETE FROM idempotency_keys WHERE principal LIKE 'email:%'"
            " OR (resource_id IS NULL AND position(convert_to('\"email\"', 'UTF8') IN response_body) > 0)"
        )
        for people in _batches(cursor):
            keys = key_store.create_keys([subject for _, subject in people])
            for table, row_id, fields in (("users", "id", ACCOUNT_FIELDS), ("profiles", "user_id", PROFILE_FIELDS)):
                rows = _read(cursor, table, row_id, fields, people)
                for user_id, subject, *values in rows:
                    plain = [bytes(value or b"").decode() for value in values]
                    sealed = [seal_field(keys[subject], subject, *pair) for pair in zip(fields, plain, strict=True)]
                    _write(cursor, table, row_id, user_id, fields, sealed)
                    if table == "users":
                        index = key_store.blind_index(plain[0]) if plain[0] else None
                        cursor.execute("UPDATE users SET email_index = %s WHERE id = %s", [index, user_id])
        _check_references(cursor)


def open_people(apps: Any, schema_editor: Any) -> None:
    """Open every account and profile; who has no address any more gets one that belongs to nobody."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("DELETE FROM idempotency_keys WHERE subject_id IS NOT NULL")
        for people in _batches(cursor):
            keys = key_store.read_keys([subject for _, subject in people])
            for table, row_id, fields in (("users", "id", ACCOUNT_FIELDS), ("profiles", "user_id", PROFILE_FIELDS)):
                for user_id, subject, *values in _read(cursor, table, row_id, fields, people):
                    plain = [open_field(keys, subject, *pair) for pair in zip(fields, values, strict=True)]
                    if table == "users":
                        plain[0] = plain[0] or f"user-{user_id}@erased.invalid"
                    _write(cursor, table, row_id, user_id, fields, [text.encode() for text in plain])
        _check_references(cursor)


def _check_references(cursor: Any) -> None:
    """Check foreign keys now: rows that this transaction has rewritten wait for it, and bar the next ALTER TABLE."""
    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    cursor.execute("SET CONSTRAINTS ALL DEFERRED")


def _batches(cursor: Any) -> Any:
    after = 0
    while True:
        cursor.execute("SELECT id, subject_id FROM users WHERE id > %s ORDER BY id LIMIT %s", [after, BATCH])
        people = cursor.fetchall()
        if not people:
            return
        yield people
        after = people[-1][0]


def _read(cursor: Any, table: str, row_id: str, fields: Any, people: list[tuple[int, UUID]]) -> Any:
    cursor.execute(
        f"SELECT t.{row_id}, u.subject_id, {', '.join(f't.{field}' for field in fields)}"
        f" FROM {table} t JOIN users u ON u.id = t.{row_id} WHERE u.id = ANY (%s)",
        [[user_id for user_id, _ in people]],
    )
    return cursor.fetchall()


def _write(cursor: Any, table: str, row_id: str, user_id: int, fields: Any, values: list[bytes | None]) -> None:
    columns = ", ".join(f"{field} = %s" for field in fields)
    cursor.execute(f"UPDATE {table} SET {columns} WHERE {row_id} = %s", [*values, user_id])


# The content of a row changes its form here and not its meaning: no entry about any person is due, and none may hold
# what these columns held until now.
QUIET = "ALTER TABLE users DISABLE TRIGGER USER; ALTER TABLE profiles DISABLE TRIGGER USER"
LOUD = "ALTER TABLE users ENABLE TRIGGER USER; ALTER TABLE profiles ENABLE TRIGGER USER"
# That it was done is worth one entry, where there was anybody.
NOTE = (
    "INSERT INTO audit_entries (occurred_at, actor, action, target, target_id, request_id, reason)"
    " SELECT now(), 'db:' || session_user, '{action}', 'user', 0, 'migration:0004', 'personal fields of all people'"
    " WHERE EXISTS (SELECT FROM users)"
)


class Migration(migrations.Migration):
    """Seal what is there; add the person's id, the index, and the requests for erasure."""

    dependencies = [("counterfoil", "0003_audit")]

    operations = [
        set_timeouts(),
        migrations.RunSQL(QUIET, LOUD),
        migrations.RemoveConstraint("User", "ck_users_email_lower"),
        migrations.AlterField("User", "email", models.CharField(max_length=255)),
        migrations.RemoveField("User", "last_login"),
        to_bytes("users", USERS, default=""),
        to_bytes("profiles", PROFILES, default=", ALTER {name} SET DEFAULT ''"),
        migrations.AddField(
            "User",
            "subject_id",
            models.UUIDField(db_default=django.contrib.postgres.functions.RandomUUID(), unique=True),
        ),
        migrations.AddField("User", "email_index", models.BinaryField(null=True, unique=True)),
        migrations.AddField("User", "erasure_requested_at", models.DateTimeField(null=True)),
        migrations.AddField("User", "erased_at", models.DateTimeField(null=True)),
        migrations.AddField("IdempotencyKey", "subject_id", models.UUIDField(null=True)),
        migrations.RunPython(seal_people, open_people),
        migrations.RunSQL(LOUD, QUIET),
        migrations.RunSQL(NOTE.format(action="user.seal"), NOTE.format(action="user.unseal")),
        migrations.AddIndex(
            "IdempotencyKey",
            models.Index(
                condition=models.Q(("subject_id__isnull", False)),
                fields=["subject_id"],
                name="idx_idempotency_keys_subject",
            ),
        ),
        migrations.AddConstraint(
            "User",
            models.CheckConstraint(
                condition=models.Q(
                    models.Q(("email__isnull", True), ("email_index__isnull", True)),
                    models.Q(("email__isnull", False), ("email_index__isnull", False)),
                    _connector="OR",
                ),
                name="ck_users_email_index",
            ),
        ),
        migrations.AddConstraint(
            "User",
            models.CheckConstraint(
                condition=models.Q(
                    ("erased_at__isnull", True),
                    models.Q(("email__isnull", True), ("is_active", False), ("name__isnull", True)),
                    _connector="OR",
                ),
                name="ck_users_erased",
            ),
        ),
        migrations.CreateModel(
            "ErasureRequest",
            fields=[
                ("user", models.OneToOneField(
                    on_delete=django.db.models.deletion.PROTECT, primary_key=True, serialize=False,
                    to=settings.AUTH_USER_MODEL,
                )),
                ("requested_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("requested_by", models.CharField(max_length=64)),
                ("step", models.CharField(db_default="", max_length=40)),
                ("deferred_reason", models.CharField(db_default="", max_length=255)),
                ("completed_at", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "erasure_requests",
                "indexes": [
                    models.Index(
                        condition=models.Q(("completed_at__isnull", True)),
                        fields=["requested_at"],
                        name="idx_erasure_requests_open",
                    )
                ],
            },
        ),
    ]
