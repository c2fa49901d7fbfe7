"""JWTs of an issuer that is trusted, and what is tried with those that are not good (RFC 8725)."""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

import httpx
import jwt
import pytest

from app.auth.issuers import LEEWAY_SECONDS, owner_of
from tests.support.credentials import bearer
from tests.support.issuer import AUDIENCE, SUBJECT, Issuer, by_hand, issuing, jwk_of, new_key, pem_of
from tests.support.postgres import Servers
from tests.support.server import Boatload, boatload, serving
from tests.support.wire import File, problem, send

SECRET = "a secret of more than thirty-two bytes"
HOUR = 3600


@dataclass(frozen=True, slots=True)
class Trusting:
    """A server and the issuer that it trusts; `evil` is one that it does not."""

    server: Boatload
    issuer: Issuer
    evil: Issuer

    def get(self, token: str, path: str = "/v1/batches") -> httpx.Response:
        with self.server.client() as client:
            return client.get(path, headers=bearer(token))


def configuration(issuer: Issuer, **more: object) -> str:
    trusted = {"issuer": issuer.url, "audience": AUDIENCE, "jwks_url": f"{issuer.url}/keys"} | more
    static = {"issuer": "https://static", "audience": AUDIENCE, "family": "HS", "key": SECRET}
    return json.dumps([trusted, static])


@pytest.fixture(scope="module")
def trusting(postgres_servers: Servers) -> Iterator[Trusting]:
    with issuing() as issuer, issuing() as evil:
        url = postgres_servers.get("18").create_migrated()
        with serving(database_url=url, jwt_issuers=configuration(issuer)) as server:
            yield Trusting(server, issuer, evil)


def test_a_token_says_whose_batches_it_is_about(trusting: Trusting) -> None:
    token = trusting.issuer.token()
    with trusting.server.client() as client:
        assert client.get("/v1/batches").status_code == 401  # an issuer is trusted, so nobody comes without
        client.headers.update(bearer(token))
        batch = send(client, "/v1/uploads", File("a", b"x")).json()["batch"]
        assert UUID(batch["user_id"]) == owner_of(trusting.issuer.url, SUBJECT)
        assert client.get(batch["url"]).status_code == 200
        client.headers.update(bearer(trusting.issuer.token(sub="bob")))
        problem(client.get(batch["url"]), 404, "not-found")


def test_a_subject_is_another_owner_with_another_issuer() -> None:
    owners = {owner_of("https://a", "b"), owner_of("https://ab", ""), owner_of("https://b", "b")}
    assert len(owners) == 3
    assert {owner.version for owner in owners} == {5}


def test_a_secret_may_be_shared_with_an_issuer(trusting: Trusting) -> None:
    claims = trusting.issuer.claims(iss="https://static")
    assert trusting.get(jwt.encode(claims, SECRET, "HS256")).status_code == 200
    assert trusting.get(jwt.encode(claims, SECRET + "x", "HS256")).status_code == 401
    # The same family as our own tokens, which have a key of their own.
    assert trusting.get("blt_" + jwt.encode(claims, SECRET, "HS256")).status_code == 401


def test_clocks_may_differ_a_little(trusting: Trusting) -> None:
    now = int(time.time())
    for claims in ({"exp": now - LEEWAY_SECONDS // 3}, {"nbf": now + LEEWAY_SECONDS // 3}, {"iat": now + 10}):
        assert trusting.get(trusting.issuer.token(**claims)).status_code == 200


@pytest.mark.parametrize(
    ("scope", "reads", "writes"),
    [
        ("read", 200, 403),
        ("write", 403, 201),
        ("read write", 200, 201),
        *((scope, 403, 403) for scope in (None, "", "reader writer", ["read"], 7, "READ")),
    ],
)
def test_scopes_come_from_the_claim(trusting: Trusting, scope: object, reads: int, writes: int) -> None:
    with trusting.server.client() as client:
        client.headers.update(bearer(trusting.issuer.token(scope=scope)))
        assert client.get("/v1/batches").status_code == reads
        assert client.post("/v1/batches", json={}).status_code == writes
        problem(client.get("/v1/webhooks"), 403, "forbidden")


Attack = Callable[[Issuer, Issuer], str]
ATTACKS: dict[str, Attack] = {
    "none": lambda one, _: by_hand({"alg": "none", "kid": "one"}, one.claims()),
    "None": lambda one, _: by_hand({"alg": "None", "kid": "one"}, one.claims()),
    "no algorithm": lambda one, _: by_hand({"kid": "one"}, one.claims()),
    "signature left out": lambda one, _: one.token().rpartition(".")[0] + ".",
    "signature of another": lambda one, _: one.token(sub="bob").rpartition(".")[0] + "." + one.token().split(".")[2],
    "HS with the public key": lambda one, _: hs_with_public_key(one),
    "another algorithm of the key": lambda one, _: one.token(algorithm="PS256"),
    "wrong audience": lambda one, _: one.token(aud="another"),
    "audience of many": lambda one, _: one.token(aud=["another", "third"]),
    "no audience": lambda one, _: one.token(aud=None),
    "wrong issuer": lambda one, evil: one.token(iss=evil.url),
    "issuer in other words": lambda one, _: one.token(iss=one.url + "/"),
    "no issuer": lambda one, _: one.token(iss=None),
    "many issuers": lambda one, _: by_hand({"alg": "RS256", "kid": "one"}, one.claims(iss=[one.url])),
    "another's key": lambda one, evil: one.token(key=evil.key),
    "expired": lambda one, _: one.token(exp=int(time.time()) - LEEWAY_SECONDS - 5),
    "no expiry": lambda one, _: one.token(exp=None),
    "expiry that is no time": lambda one, _: one.token(exp="soon"),
    "expiry without end": lambda one, _: one.token(exp=float("inf")),
    "not yet valid": lambda one, _: one.token(nbf=int(time.time()) + HOUR),
    "issued in the future": lambda one, _: one.token(iat=int(time.time()) + HOUR),
    "no subject": lambda one, _: one.token(sub=None),
    "empty subject": lambda one, _: one.token(sub=""),
    "unknown kid": lambda one, evil: one.token(kid="two", key=evil.key),
    "kid as a path": lambda one, _: one.token(kid="../../../dev/null"),
    "embedded jwk": lambda one, evil: one.token(
        key=evil.key, kid="evil", headers={"jwk": jwk_of(evil.key, "evil") | {"use": "sig"}}
    ),
    "jku": lambda one, evil: one.token(key=evil.key, kid="one", headers={"jku": f"{evil.url}/keys"}),
    "x5u": lambda one, evil: one.token(key=evil.key, kid="one", headers={"x5u": f"{evil.url}/keys"}),
    "critical extension": lambda one, _: one.token(headers={"crit": ["x"], "x": 1}),
    "deep": lambda _one, _: ".".join([by_hand({"alg": "RS256"}, {}).partition(".")[0], deep(), ""]),
    "two parts": lambda one, _: one.token().rpartition(".")[0],
    "five parts": lambda one, _: one.token() + ".a.b",
    "no base64": lambda _one, _: "a.b.c",
    "json that is no object": lambda _one, _: by_hand([], []),  # type: ignore[arg-type]
    "long": lambda one, _: one.token(more="x" * 9000),
}


def hs_with_public_key(issuer: Issuer) -> str:
    """The public key, taken for a secret: PyJWT refuses to make it, so the signature is made by hand."""
    unsigned = by_hand({"alg": "HS256", "kid": "one"}, issuer.claims()).rpartition(".")[0]
    signature = by_hand({}, {}, hmac.digest(pem_of(issuer.key), unsigned.encode(), "sha256")).rpartition(".")[2]
    return f"{unsigned}.{signature}"


def deep() -> str:
    return urlsafe_b64encode(b'{"iss":' + b"[" * 3000).decode()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_token_that_is_not_good_answers_401(trusting: Trusting, attack: str) -> None:
    asked = trusting.evil.asked
    answer = trusting.get(ATTACKS[attack](trusting.issuer, trusting.evil))
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert trusting.evil.asked == asked  # nobody asks whom a token names
    assert trusting.get(trusting.issuer.token()).status_code == 200
    assert "unexpected error" not in trusting.server.log


def test_unknown_keys_do_not_have_the_issuer_asked_each_time(trusting: Trusting) -> None:
    trusting.get(trusting.issuer.token())
    asked, started = trusting.issuer.asked, time.monotonic()
    for number in range(50):
        assert trusting.get(trusting.issuer.token(kid=f"no {number}")).status_code == 401
    assert trusting.issuer.asked - asked <= 1 + (time.monotonic() - started) / 10


def test_a_new_key_is_found_and_an_issuer_that_is_away_is_503(postgres_servers: Servers) -> None:
    with issuing() as issuer:
        issuer.is_down = True
        url = postgres_servers.get("18").create_migrated()
        with serving(database_url=url, jwt_issuers=configuration(issuer)) as server, server.client() as client:

            def status(token: str) -> int:
                return client.get("/v1/batches", headers=bearer(token)).status_code

            token = issuer.token()
            answer = client.get("/v1/batches", headers=bearer(token))
            problem(answer, 503, "issuer-unavailable")
            assert int(answer.headers["retry-after"]) > 0
            assert status("blk_unknown") == 401  # others do not suffer
            issuer.is_down = False
            deadline = time.monotonic() + 40
            while status(token) != 200:  # tried again ten seconds after the last time
                assert time.monotonic() < deadline
                time.sleep(0.2)
            issuer.keys["two"] = new_key()
            fresh = issuer.token(kid="two", key=issuer.keys["two"])
            while status(fresh) != 200:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            issuer.is_down = True
            assert status(issuer.token(sub="bob")) == 200  # by the keys that are known
            assert token not in server.log


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ("x", "JWT_ISSUERS"),
        ('[{"issuer": "a"}]', "audience"),
        ('[{"issuer": "a", "audience": "b"}]', "jwks_url or key"),
        ('[{"issuer": "a", "audience": "b", "jwks_url": "http://example.org/keys"}]', "https://"),
        ('[{"issuer": "a", "audience": "b", "family": "HS", "jwks_url": "https://example.org/keys"}]', "32 bytes"),
        ('[{"issuer": "a", "audience": "b", "family": "HS", "key": "short"}]', "32 bytes"),
        ('[{"issuer": "a", "audience": "b", "key": "no pem"}]', "PEM"),
        ('[{"issuer": "a", "audience": "b", "family": "none", "key": "x"}]', "family"),
    ],
)
def test_issuers_that_cannot_be_trusted_are_refused_at_the_start(wrong: str, word: str) -> None:
    result = boatload("serve", jwt_issuers=wrong, port=0, seconds=20)
    assert result.returncode == 1
    assert "BOATLOAD_JWT_ISSUERS" in result.stderr
    assert word in result.stderr
    assert "Traceback" not in result.stderr
