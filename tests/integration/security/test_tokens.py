"""Access tokens: one kind opens the door, every other is refused (JW), and a secret is changed without a log-out."""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from accounts import AUTH, ORDERS, USERS, bearer, logged, register, sign_in
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from conftest import SECRET, Service, run_counterfoil, running_service
from counterfoil.users.tokens import derive_signing_key

Unchanged = Callable[[], AbstractContextManager[None]]
KEY = derive_signing_key(SECRET)


def claims(**values: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {
        "iss": "counterfoil",
        "aud": "counterfoil-api",
        "sub": str(2**62),
        "role": "admin",
        "epoch": 0,
        "jti": "x",
        "iat": now,
        "exp": now + 600,
    }
    made.update(values)
    return {name: value for name, value in made.items() if value is not None}


def signed(payload: dict[str, Any], key: bytes = KEY.key, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode(payload, key, algorithm=algorithm, headers={"typ": "at+jwt", "kid": KEY.kid, **headers})


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def unsigned(algorithm: str, **values: Any) -> str:
    parts = [{"alg": algorithm, "typ": "at+jwt", "kid": KEY.kid}, claims(**values)]
    return ".".join(encoded(json.dumps(part).encode()) for part in parts) + "."


def signed_with(key: bytes, **values: Any) -> str:
    message = unsigned("HS256", **values).rstrip(".")
    return f"{message}.{encoded(hmac.digest(key, message.encode(), 'sha256'))}"


def without_header(name: str) -> str:
    header = {"alg": "HS256", "typ": "at+jwt", "kid": KEY.kid}
    del header[name]
    message = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims()))
    return f"{message}.{encoded(hmac.digest(KEY.key, message.encode(), 'sha256'))}"


def public_key(kind: str) -> bytes:
    private = rsa.generate_private_key(65537, 2048) if kind == "RS" else ec.generate_private_key(ec.SECP256R1())
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def assert_refused(client: httpx.Client, token: str) -> None:
    for path in (USERS, ORDERS, "/api/v1/products"):
        answer = client.get(path, headers=bearer(token))
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "TOKEN_INVALID"), answer.text
        assert answer.headers["www-authenticate"] == 'Bearer realm="counterfoil"'


def test_a_token_with_every_claim_right_opens_the_door(anonymous: httpx.Client) -> None:
    for token in (signed(claims()), signed(claims(sid=str(uuid4()))), signed_with(KEY.key)):
        assert anonymous.get(USERS, headers=bearer(token)).status_code == 200


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "NONE", "HS256"])
def test_security_JW_01_an_unsigned_token_is_refused(
    anonymous: httpx.Client, nothing_written: Unchanged, algorithm: str
) -> None:
    with nothing_written():
        assert_refused(anonymous, unsigned(algorithm))


@pytest.mark.parametrize("kind", ["RS", "ES"])
def test_security_JW_02_a_public_key_is_no_secret(
    anonymous: httpx.Client, nothing_written: Unchanged, kind: str
) -> None:
    with nothing_written():
        assert_refused(anonymous, signed_with(public_key(kind)))


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_security_JW_02_the_algorithm_is_ours_to_choose(anonymous: httpx.Client, algorithm: str) -> None:
    assert_refused(anonymous, jwt.encode(claims(), KEY.key.ljust(64, b"!"), algorithm=algorithm))
    assert_refused(anonymous, signed(claims(), KEY.key + KEY.key, algorithm))


@pytest.mark.parametrize(
    "key",
    [b"", b"secret", KEY.kid.encode(), b"django-insecure-" + b"x" * 50, SECRET.encode(), b"changeme" * 4],
    ids=["empty", "secret", "key id", "django", "the secret itself", "changeme"],
)
def test_security_JW_03_a_token_signed_with_a_guess_is_refused(
    anonymous: httpx.Client, nothing_written: Unchanged, key: bytes
) -> None:
    with nothing_written():
        assert_refused(anonymous, signed_with(key))


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        (secrets.token_hex(15), "at least 32 characters"),
        ("changeme" * 8, "repetition"),
        ("secret" * 8, "repetition"),
        ("a" * 64, "repetition"),
        ("my-secret-changeme-password-default", "too regular"),
        ("abcdefghijklmnopqrstuvwxyz0123456789", "too regular"),
        ("django-insecure-" + secrets.token_urlsafe(40), "example that Django writes"),
    ],
    ids=["short", "changeme", "secret", "one letter", "words", "the alphabet", "example"],
)
@pytest.mark.parametrize("name", ["COUNTERFOIL_SECRET", "COUNTERFOIL_SECRET_FALLBACKS"])
def test_security_JW_03_the_service_does_not_start_with_a_weak_secret(name: str, secret: str, reason: str) -> None:
    environment = {"COUNTERFOIL_SECRET": secrets.token_urlsafe(48), name: secret, "COUNTERFOIL_DEMO": "0"}

    refused = run_counterfoil("serve", check=False, DATABASE_URL="postgresql://127.0.0.1:1/none", **environment)

    assert refused.returncode == 1
    assert reason in " ".join(refused.stderr.split())
    assert name in refused.stderr
    assert secret not in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    "headers", [{"crit": ["x"], "x": 1}, {"crit": ["b64"], "b64": False}, {"b64": False, "crit": ["b64", "exp"]}]
)
def test_security_JW_06_critical_headers_that_nobody_knows_are_refused(
    anonymous: httpx.Client, nothing_written: Unchanged, headers: dict[str, Any]
) -> None:
    with nothing_written():
        assert_refused(anonymous, signed(claims(), **headers))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"iss": "other"}, {"iss": None}, {"iss": ["counterfoil"]}),
        *({"aud": "other"}, {"aud": None}, {"aud": ["counterfoil-api"]}, {"aud": ["counterfoil-api", "other"]}),
        *({"aud": "counterfoil-api "}, {"aud": "COUNTERFOIL-API"}),
    ],
    ids=str,
)
def test_security_JW_08_issuer_and_audience_must_match_exactly(
    anonymous: httpx.Client, nothing_written: Unchanged, wrong: dict[str, Any]
) -> None:
    with nothing_written():
        assert_refused(anonymous, signed_with(KEY.key, **wrong))


def test_security_JW_09_one_kind_of_token_is_not_taken_for_another(
    anonymous: httpx.Client, nothing_written: Unchanged
) -> None:
    tokens = sign_in(anonymous, register(anonymous))
    confirmation = "cft_" + secrets.token_urlsafe(32)

    with nothing_written():
        for token in (
            tokens["refresh_token"],
            confirmation,
            signed(claims(), typ="JWT"),
            signed(claims(), typ="rt+jwt"),
        ):
            assert_refused(anonymous, token)
        access_as_refresh = anonymous.post(f"{AUTH}/refresh", json={"refresh_token": tokens["access_token"][:100]})
        refresh_as_confirmation = anonymous.post(f"{AUTH}/email-confirmation", json={"token": tokens["refresh_token"]})
        refresh_as_reset = anonymous.post(
            f"{AUTH}/password-reset/confirm",
            json={"token": tokens["refresh_token"], "password": "another horse battery"},
        )

    assert access_as_refresh.status_code in {400, 401}
    for answer in (refresh_as_confirmation, refresh_as_reset):
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "ONE_TIME_TOKEN_INVALID")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: without_header("typ"), id="no typ"),
        pytest.param(lambda: without_header("kid"), id="no kid"),
        pytest.param(lambda: signed(claims(), kid="other"), id="wrong kid"),
        pytest.param(lambda: signed(claims(exp=int(time.time()) - 1)), id="expired"),
        pytest.param(lambda: signed(claims(exp=None)), id="no exp"),
        pytest.param(lambda: signed(claims(exp="never")), id="exp text"),
        pytest.param(lambda: signed(claims(nbf=int(time.time()) + 600)), id="not yet"),
        pytest.param(lambda: signed(claims(iat=int(time.time()) + 600)), id="issued in the future"),
        pytest.param(lambda: signed(claims(jti=None)), id="no jti"),
        pytest.param(lambda: signed(claims(sub=None)), id="no sub"),
        pytest.param(lambda: signed(claims(sub="admin")), id="sub text"),
        pytest.param(lambda: signed(claims(sub="0")), id="sub zero"),
        pytest.param(lambda: signed(claims(sub="9" * 1000)), id="sub endless"),
        pytest.param(lambda: signed(claims(role="root")), id="wrong role"),
        pytest.param(lambda: signed(claims(role=None)), id="no role"),
        pytest.param(lambda: signed(claims(role=["admin"])), id="role list"),
        pytest.param(lambda: signed(claims(epoch=None)), id="no epoch"),
        pytest.param(lambda: signed(claims(epoch=-1)), id="epoch below zero"),
        pytest.param(lambda: signed(claims(epoch="9")), id="epoch text"),
        pytest.param(lambda: signed(claims(epoch=True)), id="epoch true"),
        pytest.param(lambda: signed(claims(sid="x")), id="sid short"),
        pytest.param(lambda: signed(claims(sid=["x"])), id="sid list"),
        pytest.param(lambda: signed(claims())[:-2], id="cut"),
        pytest.param(lambda: "x" * 2000, id="long"),
        pytest.param(lambda: "a.b.c", id="dots"),
    ],
)
def test_any_other_token_is_refused(
    anonymous: httpx.Client, nothing_written: Unchanged, make: Callable[[], str]
) -> None:
    with nothing_written():
        assert_refused(anonymous, make())


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "Token x", "bearer", "Bearer " + "x" * 3000])
def test_another_kind_of_credentials_is_refused(anonymous: httpx.Client, header: str) -> None:
    answer = anonymous.get(f"{USERS}/me", headers={"Authorization": header})

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "CREDENTIALS_MISSING")


def test_security_AU_04_a_refused_token_is_a_line_in_the_security_log(
    anonymous: httpx.Client, service: Service
) -> None:
    request_id = f"req-{secrets.token_hex(8)}"

    anonymous.get(f"{USERS}/me", headers={**bearer(signed_with(b"guess")), "X-Request-ID": request_id})

    [line] = logged(service, "security.credentials_refused", request_id=request_id)
    assert (line["code"], line["route"], line["level"]) == ("TOKEN_INVALID", "/api/v1/users/me", "warning")


def test_a_changed_secret_logs_nobody_out(anonymous: httpx.Client, service: Service, tmp_path: Path) -> None:
    account = register(anonymous)
    old = sign_in(anonymous, account)
    headers = bearer(old["access_token"])
    admin = bearer(signed(claims()))
    page = anonymous.get(USERS, params={"limit": 1}, headers=admin).json()
    newer = secrets.token_urlsafe(48)

    with (
        running_service(
            service.database_url, tmp_path, COUNTERFOIL_SECRET=newer, COUNTERFOIL_SECRET_FALLBACKS=SECRET
        ) as rotated,
        rotated.client() as client,
    ):
        with_old = client.get(f"{USERS}/me", headers=headers)
        next_page = client.get(page["next"], headers=admin)
        refreshed = client.post(f"{AUTH}/refresh", json={"refresh_token": old["refresh_token"]}).json()
        with_new = client.get(f"{USERS}/me", headers=bearer(refreshed["access_token"]))

    assert (with_old.status_code, with_new.status_code, next_page.status_code) == (200, 200, 200)
    kids = [jwt.get_unverified_header(token["access_token"])["kid"] for token in (old, refreshed)]
    assert kids == [KEY.kid, derive_signing_key(newer).kid]
    assert_refused(anonymous, refreshed["access_token"])
