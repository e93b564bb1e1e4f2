"""A login of the application's own, for the PostgreSQL that `counterfoil up` starts.

The role that the processes act as is only worth something when they cannot take it off again: with the owner's login
they could (RESET ROLE). This login owns nothing and is nothing but a member of that role.
"""

from __future__ import annotations

import secrets
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

LOGIN: Final = "counterfoil_app_login"
_ROLE: Final = "counterfoil_app"


def make_application_login(owner_url: str) -> str:
    """Make the login, or give it a new password, and return the URL with which the application connects.

    The password is new at every start and stored nowhere: PostgreSQL keeps a verifier, the processes their environment.
    """
    password = secrets.token_urlsafe(24)
    with psycopg.connect(owner_url, autocommit=True) as connection:
        verifier = connection.pgconn.encrypt_password(password.encode(), LOGIN.encode(), b"scram-sha-256").decode()
        login, role = sql.Identifier(LOGIN), sql.Identifier(_ROLE)
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [LOGIN]).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {}").format(login))
        connection.execute(
            sql.SQL("ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}").format(login, verifier)
        )
        connection.execute(sql.SQL("GRANT {} TO {}").format(role, login))
    parts = urlsplit(owner_url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{LOGIN}:{quote(password, safe='')}@{host}"))
