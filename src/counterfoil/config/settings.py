"""Environment to settings: the only reader of the environment.

`Settings` documents and checks every variable; the module-level names below it are what Django reads.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from counterfoil.config.addresses import require_postgresql, require_redis
from counterfoil.config.order_settings import OrderSettings
from counterfoil.config.payment_settings import PaymentSettings
from counterfoil.config.price_settings import PriceSettings
from counterfoil.config.secret_strength import find_weakness


def _parts(text: str) -> list[str]:
    return [part for piece in text.split(",") if (part := piece.strip().rstrip("/"))]


class Settings(OrderSettings, PaymentSettings, PriceSettings):
    """Every setting, from environment variables of the same name in capitals."""

    # Addresses have passwords in them, so errors do not repeat what was given.
    model_config = SettingsConfigDict(env_file=None, extra="ignore", frozen=True, hide_input_in_errors=True)

    database_url: str = Field("", description="PostgreSQL 15 or newer; empty: `up` starts the embedded one.")
    counterfoil_owner_database_url: SecretStr = Field(
        SecretStr(""), description="For `migrate`: a login that owns the tables, when that of DATABASE_URL does not."
    )
    counterfoil_database_role: str = Field(
        "", description="Role to act as at every connection; `serve` and `work` set counterfoil_app by themselves."
    )
    counterfoil_anchor_dir: str = Field(
        "", description="Where `work` writes signed anchors of the audit trail; best on another machine."
    )
    counterfoil_anchor_minutes: int = Field(
        15,
        ge=1,
        le=1440,
        description="Minutes between two anchors: what is older than the last cannot be written anew.",
    )
    counterfoil_secret: SecretStr = Field(
        SecretStr(""), description="At least 32 characters; signs tokens, cursors and sessions. `up` makes its own."
    )
    counterfoil_secret_fallbacks: SecretStr = Field(
        SecretStr(""), description="Older secrets, separated by commas: what they signed still counts, nothing new is."
    )
    counterfoil_keys_url: str = Field(
        "",
        description="PostgreSQL database of the encryption keys; empty: a schema of its own in that of DATABASE_URL.",
    )
    counterfoil_master_keys_file: str = Field(
        "",
        description="File of master keys, mode 0600: one base64 key of 32 bytes a line, the current one first."
        " `up` makes its own.",
    )
    counterfoil_demo: bool = Field(default=False, description="Demo mode: local, plain HTTP, tokens printed by `up`.")
    counterfoil_host: str = Field("127.0.0.1", description="Address to listen on.")
    counterfoil_port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    counterfoil_web_processes: int = Field(
        1, ge=1, le=64, description="Web processes. Each has its own intake: on few cores one batches best."
    )
    counterfoil_pool_size: int = Field(
        8, ge=2, le=50, description="Connections of each of the two pools of a web process (hot path, the rest)."
    )
    counterfoil_batch_orders_max: int = Field(32, ge=1, le=500, description="Orders that share one transaction.")
    counterfoil_queue_orders_max: int = Field(2000, ge=1, description="Orders waiting; one more is answered 503.")
    counterfoil_submit_timeout_ms: int = Field(
        5000, ge=100, description="Longest wait of an order in the queue before it is answered 503."
    )
    counterfoil_hold_seconds: int = Field(
        1800, ge=1, le=604_800, description="How long an unpaid order keeps its stock (30 minutes)."
    )
    counterfoil_open_orders_max: int = Field(
        100, ge=0, le=10_000, description="Unpaid orders a customer may have open; scarce goods: 5; 0: any number."
    )
    counterfoil_open_units_max: int = Field(
        0, ge=0, le=10_000, description="Units in a customer's unpaid orders; scarce goods: 50; 0: any number."
    )
    counterfoil_public_url: str = Field(
        "http://127.0.0.1:8000",
        description="Address of the shop for people; links in mails begin with it. Must be https outside demo mode.",
    )
    counterfoil_mail_url: SecretStr = Field(
        SecretStr(""),
        description="`smtp://user:password@host:587` (STARTTLS; `?tls=off` without) or `smtps://host:465`; "
        "empty: mails are written to files.",
    )
    counterfoil_mail_from: str = Field("Counterfoil <no-reply@localhost>", description="Sender of mails.")
    counterfoil_outbox_dir: Path = Field(
        Path(".counterfoil/outbox"), description="Where mails are written as .eml files when there is no mail server."
    )
    counterfoil_log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")

    # ------------------------------------------------------------ who may come in, and how
    counterfoil_allowed_hosts: str = Field(
        "", description="Host names that requests may be for, separated by commas; needed outside demo mode."
    )
    counterfoil_trusted_proxies: str = Field(
        "",
        description="Addresses or networks of the proxy in front, separated by commas; only its X-Forwarded-For and "
        "X-Forwarded-Proto are believed. Needed outside demo mode.",
    )
    counterfoil_cors_origins: str = Field(
        "", description="Origins whose pages may call the API from a browser, separated by commas; none by default."
    )
    counterfoil_body_seconds_max: int = Field(
        30, ge=1, le=600, description="How long the body of a request may take to arrive."
    )

    # ------------------------------------------------------------ how much: requests/seconds
    redis_url: str = Field("", description="Redis that counts rate limits; empty: PostgreSQL counts them.")
    counterfoil_redis_timeout_ms: int = Field(
        90, ge=10, le=5000, description="Longest wait for Redis; past it requests are counted without it for a while."
    )
    counterfoil_limit_sign_in: str = Field("60/60", description="Sign-ins and refreshes per address: requests/seconds.")
    counterfoil_limit_registration: str = Field("20/3600", description="Registrations per address.")
    counterfoil_limit_recovery: str = Field("10/900", description="Password resets and confirmations per address.")
    counterfoil_limit_write: str = Field("600/60", description="Changes per account, key or unknown address.")
    counterfoil_limit_read: str = Field("1200/60", description="Reads per account, key or unknown address.")
    counterfoil_limit_look_up: str = Field("10/60", description="Tries of a code that can be guessed, per caller.")
    counterfoil_limit_admin: str = Field("600/60", description="Administration of accounts and keys, per account.")
    counterfoil_limit_service: str = Field("60000/60", description="Reads and changes per account of role service.")
    counterfoil_limit_key_percent: int = Field(
        50, ge=1, le=100, description="What one API key may use of its account's limits; 100: all of them."
    )
    counterfoil_limit_console: str = Field("600/60", description="Pages of the console per address.")
    counterfoil_limit_callback: str = Field("6000/60", description="Notices of payment gateways per address.")
    counterfoil_limit_refused: str = Field("60/60", description="Wrong or missing credentials per address.")
    counterfoil_limit_sign_in_failures: str = Field("30/900", description="Wrong passwords per address.")
    counterfoil_limit_factor: int = Field(
        1, ge=1, le=1_000_000, description="Multiplies every limit above, for load tests; `up` and `bench` set it high."
    )

    _is_postgresql = field_validator("database_url", "counterfoil_keys_url")(require_postgresql)
    _is_redis = field_validator("redis_url")(require_redis)

    @field_validator(
        *(
            f"counterfoil_limit_{name}"
            for name in (
                *("sign_in", "registration", "recovery", "write", "read", "look_up", "admin", "service", "refused"),
                *("console", "callback", "sign_in_failures"),
            )
        )
    )
    @classmethod
    def _is_limit(cls, value: str) -> str:
        if re.fullmatch(r"[1-9][0-9]{0,8}/[1-9][0-9]{0,6}", value) is None:
            raise ValueError("must be requests/seconds, such as 600/60")
        return value

    @field_validator("counterfoil_cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in _parts(value):
            if re.fullmatch(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?", origin) is None:
                raise ValueError(f"{origin} must be scheme, host and port only, such as https://shop.example")
        return value

    @field_validator("counterfoil_allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: str) -> str:
        for host in _parts(value):
            if re.fullmatch(r"[a-z0-9.-]+|\[[0-9a-f:.]+\]", host) is None:
                raise ValueError(f"{host} must be a name or address in small letters, without port or wildcard")
        return value

    @field_validator("counterfoil_trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for network in _parts(value):
            ipaddress.ip_network(network, strict=False)
        return value

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Names and addresses that requests may be for; in demo mode also those of this machine."""
        local = {"127.0.0.1", "localhost", "[::1]", self.counterfoil_host} if self.counterfoil_demo else set()
        return frozenset({*_parts(self.counterfoil_allowed_hosts), *local})

    @property
    def trusted_proxies(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Networks whose forwarding headers are believed."""
        return tuple(ipaddress.ip_network(text, strict=False) for text in _parts(self.counterfoil_trusted_proxies))

    @property
    def cors_origins(self) -> frozenset[str]:
        """Origins whose pages may call the API."""
        return frozenset(_parts(self.counterfoil_cors_origins))

    def limit_of(self, name: str) -> tuple[int, int]:
        """Return (requests, seconds) of a class of routes, the factor applied."""
        amount, _, seconds = str(getattr(self, f"counterfoil_limit_{name}")).partition("/")
        return int(amount) * self.counterfoil_limit_factor, int(seconds)

    @field_validator("counterfoil_database_role")
    @classmethod
    def _is_role(cls, value: str) -> str:
        # It becomes part of the connection's options.
        if value and re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", value) is None:
            raise ValueError("must be a name of small letters, digits and underscores")
        return value

    @field_validator("counterfoil_log_level")
    @classmethod
    def _is_level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("counterfoil_mail_url")
    @classmethod
    def _is_mail_server(cls, value: SecretStr) -> SecretStr:
        parts = urlsplit(value.get_secret_value())
        if value.get_secret_value() and (parts.scheme not in {"smtp", "smtps"} or not parts.hostname):
            raise ValueError("must look like smtp://user:password@host:587 or smtps://host:465")
        return value

    @field_validator("counterfoil_public_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must look like https://shop.example.com")
        return value.rstrip("/")

    @field_validator("counterfoil_secret", "counterfoil_secret_fallbacks")
    @classmethod
    def _is_long_enough(cls, value: SecretStr) -> SecretStr:
        if any(len(secret) < SECRET_CHARS_MIN for secret in _split(value)):
            raise ValueError(f"must have at least {SECRET_CHARS_MIN} characters")
        return value

    @model_validator(mode="after")
    def _cannot_be_guessed(self) -> Self:
        """Refuse a secret that is weak, outside of the demo, which makes its own."""
        for name in () if self.counterfoil_demo else ("counterfoil_secret", "counterfoil_secret_fallbacks"):
            for secret in _split(getattr(self, name)):
                if weakness := find_weakness(secret):
                    advice = "python -c 'import secrets; print(secrets.token_urlsafe(48))'"
                    raise ValueError(f"{name.upper()} {weakness}; make one with: {advice}")
        return self


def _split(secrets_text: SecretStr) -> list[str]:
    return [secret.strip() for secret in secrets_text.get_secret_value().split(",") if secret.strip()]


# 32 characters of a random alphabet carry more than the 128 bits that HS256 needs at the very least (RFC 7518, 3.2).
SECRET_CHARS_MIN: Final = 32

COUNTERFOIL: Final = Settings()  # pyright: ignore[reportCallIssue]

# ---------------------------------------------------------------- what Django reads
# An empty secret is replaced for this process only: `serve` refuses to start with it (cli/processes.py).
SECRET_KEY: Final = COUNTERFOIL.counterfoil_secret.get_secret_value() or secrets.token_urlsafe(48)
SECRET_KEY_FALLBACKS: Final = _split(COUNTERFOIL.counterfoil_secret_fallbacks)
DEBUG: Final = False
# api/middleware/transport.py has looked at the host before Django does.
ALLOWED_HOSTS: Final = sorted(COUNTERFOIL.allowed_hosts)
INSTALLED_APPS: Final = [
    "counterfoil",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
MIDDLEWARE: Final = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "counterfoil.console.unavailable.AnswerUnavailable",
]
ROOT_URLCONF: Final = "counterfoil.config.urls"
AUTH_USER_MODEL: Final = "counterfoil.User"
AUTHENTICATION_BACKENDS: Final = ["counterfoil.console.sign_in.AccountBackend"]
# The backend looks accounts up by the index of their address; the address itself is sealed and has none.
SILENCED_SYSTEM_CHECKS: Final = ["auth.W004"]
PASSWORD_HASHERS: Final = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS: Final = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator",
        "OPTIONS": {"user_attributes": ("email", "name")},
    },
    {"NAME": "counterfoil.users.passwords.StrengthValidator"},
]
DEFAULT_AUTO_FIELD: Final = "django.db.models.BigAutoField"
USE_TZ: Final = True
TIME_ZONE: Final = "UTC"
FORMAT_MODULE_PATH: Final = "counterfoil.console.formats"
STATIC_URL: Final = "/console/static/"
X_FRAME_OPTIONS: Final = "DENY"
# `__Host-`: the browser itself insists on HTTPS, on the whole path and on this very host. Demo mode has no HTTPS.
_HOST_PREFIX: Final = "" if COUNTERFOIL.counterfoil_demo else "__Host-"
SESSION_COOKIE_NAME: Final = f"{_HOST_PREFIX}counterfoil_session"
SESSION_ENGINE: Final = "counterfoil.infrastructure.session_store"
SESSION_COOKIE_SECURE: Final = not COUNTERFOIL.counterfoil_demo
SESSION_COOKIE_HTTPONLY: Final = True
# Lax, not Strict: a link in a mail to an order must find the operator signed in. Forms are guarded by their tokens.
SESSION_COOKIE_SAMESITE: Final = "Lax"
SESSION_COOKIE_AGE: Final = 12 * 3600  # an operator's working day
CSRF_COOKIE_NAME: Final = f"{_HOST_PREFIX}csrftoken"
CSRF_COOKIE_SECURE: Final = not COUNTERFOIL.counterfoil_demo
CSRF_COOKIE_HTTPONLY: Final = True
CSRF_COOKIE_SAMESITE: Final = "Lax"
PACKAGE_DIR: Final = Path(__file__).resolve().parent.parent
TEMPLATES: Final = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [PACKAGE_DIR / "console" / "templates", PACKAGE_DIR / "notifications" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# ---------------------------------------------------------------- mail
_MAIL: Final = urlsplit(COUNTERFOIL.counterfoil_mail_url.get_secret_value())
EMAIL_BACKEND: Final = (
    "django.core.mail.backends.smtp.EmailBackend" if _MAIL.hostname else "counterfoil.notifications.outbox.FileBackend"
)
EMAIL_HOST: Final = _MAIL.hostname or ""
EMAIL_PORT: Final = _MAIL.port or (465 if _MAIL.scheme == "smtps" else 587)
EMAIL_HOST_USER: Final = unquote(_MAIL.username or "")
EMAIL_HOST_PASSWORD: Final = unquote(_MAIL.password or "")
EMAIL_USE_SSL: Final = _MAIL.scheme == "smtps"
EMAIL_USE_TLS: Final = _MAIL.scheme == "smtp" and "tls=off" not in _MAIL.query
EMAIL_TIMEOUT: Final = 10
DEFAULT_FROM_EMAIL: Final = COUNTERFOIL.counterfoil_mail_from

# Nothing waits for ever: statement 5 s, lock 2 s, idle in transaction 10 s, waiting for a connection 2 s.
_TIMEOUTS: Final = (
    "-c statement_timeout=5s -c lock_timeout=2s -c idle_in_transaction_session_timeout=10s -c timezone=UTC -c jit=off"
)
# Rights that the application does not need are given up before its first statement.
CONNECTION_OPTIONS: Final = _TIMEOUTS + (
    f" -c role={COUNTERFOIL.counterfoil_database_role}" if COUNTERFOIL.counterfoil_database_role else ""
)
POOL_WAIT_SECONDS: Final = 2.0

# Keys are asked for once a request, in threads; fewer connections than to the data are enough.
_KEYS_POOL_SIZE_MAX: Final = 4


def _database(url: str, *, pool_size: int, options: str) -> dict[str, Any]:
    if not url:  # commands that need no database (makemigrations, the generated documents)
        return {"ENGINE": "django.db.backends.dummy"}
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "counterfoil",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 0,
        "OPTIONS": {
            "options": options,
            "connect_timeout": 5,
            "application_name": "counterfoil",
            "pool": {"min_size": 1, "max_size": pool_size, "timeout": POOL_WAIT_SECONDS},
        },
    }


DATABASES: Final = {
    "default": _database(
        COUNTERFOIL.database_url, pool_size=COUNTERFOIL.counterfoil_pool_size, options=CONNECTION_OPTIONS
    ),
    "keys": _database(
        COUNTERFOIL.counterfoil_keys_url or COUNTERFOIL.database_url,
        pool_size=min(_KEYS_POOL_SIZE_MAX, COUNTERFOIL.counterfoil_pool_size),
        # Another server need not know the role; its login has rights of its own.
        options=_TIMEOUTS if COUNTERFOIL.counterfoil_keys_url else CONNECTION_OPTIONS,
    ),
}
LOGGING_CONFIG: Final = None
