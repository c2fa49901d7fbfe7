"""Nothing secret is ever said: each secret is told from all else, and looked for in all that anybody says."""

import base64
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, quote_plus

import httpx
import jwt
import pytest

from app.db import migrate
from app.db.embedded import EmbeddedPostgres
from tests.acceptance.auth.conftest import OWNER
from tests.support.credentials import bearer, make_key
from tests.support.foreign import OPERATIONS, unknown
from tests.support.issuer import new_key
from tests.support.postgres import apart, execute
from tests.support.pushing import Pusher
from tests.support.server import Boatload, boatload, folder, serving
from tests.support.tus import VERSION
from tests.support.wire import FORM, File, finished, multipart, send
from tests.support.workers import Worker

ISSUER: Final = "https://issuer.example.org/"


def canary(name: str) -> str:
    return f"canary-{name}-{secrets.token_hex(8)}"


@dataclass(slots=True)
class Aviary:
    """Secrets by their names, and who has seen them."""

    secrets: dict[str, str] = field(default_factory=dict)
    answers: int = 0

    def keep(self, name: str, secret: str | None = None) -> str:
        """Remember a secret, a new one unless it is given; return it."""
        return self.secrets.setdefault(name, secret or canary(name))

    def look(self, where: str, said: str, *, shown: str | None = None) -> None:
        """Look for all secrets as they are, quoted, in base64 and as digests; `shown` is there on purpose."""
        for name, secret in self.secrets.items():
            if name != shown:
                for form in _forms(secret):
                    assert form not in said, f"{where} shows {name}: {_around(said, form)}"

    def hear(self, answer: httpx.Response, *, shown: str | None = None) -> None:
        """Look for them in an answer."""
        answer.read()
        self.answers += 1
        head = "\n".join(f"{name}: {value}" for name, value in answer.headers.multi_items())
        asked = f"the answer {answer.status_code} to {answer.request.method} {answer.request.url.path}"
        self.look(asked, head + "\n\n" + answer.text, shown=shown)


def _forms(secret: str) -> set[str]:
    """What somebody could write a secret down as; of one in parts, the part that makes it good."""
    part = secret.rpartition(".")[2] if secret.count(".") > 1 else secret
    plain = part.removeprefix("blk_").removeprefix("blt_").removeprefix("whsec_")
    return {plain, quote(plain, safe=""), quote_plus(plain), base64.b64encode(secret.encode()).decode()}


def _around(said: str, form: str) -> str:
    at = said.index(form)
    return said[max(0, at - 300) : at + len(form) + 100]


@dataclass(frozen=True, slots=True)
class Scene:
    """A service whose configuration is full of secrets, a worker beside it, and all secrets."""

    server: Boatload
    worker: Worker
    postgres: EmbeddedPostgres
    aviary: Aviary
    url: str
    """Of the database, with a password."""
    folder: Path
    """Of the database."""


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    aviary = Aviary()
    with folder() as path:
        postgres = EmbeddedPostgres(path / "postgres")
        plain = apart(postgres.start)
        try:
            apart(lambda: migrate.upgrade(plain))
            url = plain.replace("boatload@", f"boatload:{aviary.keep('database-password')}@", 1)
            assert url != plain
            aviary.keep("key", make_key(plain, owner=OWNER))
            settings = _settings(url, aviary)
            with serving(log_level="debug", worker=False, **settings) as server:
                worker = Worker(path / "worker.log", data_dir=server.data_dir, **settings)
                worker.start()
                try:
                    yield Scene(server, worker, postgres, aviary, url, path / "postgres")
                finally:
                    worker.stop()
        finally:
            apart(postgres.stop)


def _settings(url: str, aviary: Aviary) -> dict[str, object]:
    shared = aviary.keep("issuer-secret", canary("issuer") + secrets.token_hex(16))
    fetched = f"https://user:{aviary.keep('jwks-password')}@127.0.0.1:9/keys?key={aviary.keep('jwks-query')}"
    issuers = [
        {"issuer": ISSUER, "audience": "boatload", "family": "HS", "key": shared},
        {"issuer": ISSUER + "2", "audience": "boatload", "jwks_url": fetched},
    ]
    return {
        "database_url": url,
        "jwt_issuers": json.dumps(issuers),
        "webhook_allow_private": True,
        "webhook_retry_seconds": 1,
        "webhook_timeout_seconds": 1,
    }


def _credentials(scene: Scene, client: httpx.Client) -> dict[str, str]:
    """A value of Authorization for each kind of credential, good and bad; all of them secrets from here on."""
    aviary = scene.aviary
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": "boatload", "sub": "a", "exp": now + 600, "scope": "read write"}
    aviary.keep("jwt", jwt.encode(claims, aviary.secrets["issuer-secret"], "HS256"))
    aviary.keep("expired-jwt", jwt.encode(claims | {"exp": 1}, aviary.secrets["issuer-secret"], "HS256"))
    aviary.keep("jwt-of-fetched-keys", jwt.encode(claims | {"iss": ISSUER + "2"}, new_key(), "RS256"))
    aviary.keep("unknown-jwt", f"{'e30'}.{'e30'}.{canary('unsigned')}")
    batch = client.post("/v1/batches", json={}).json()
    made = client.post(f"{batch['url']}/tokens", json={})
    aviary.keep("token", made.json()["token"])
    aviary.hear(made, shown="token")
    aviary.keep("revoked-key", "blk_" + canary("no-key"))
    aviary.keep("bad-token", "blt_" + canary("no-token"))
    aviary.keep("password")
    aviary.keep("new-key", make_key(scene.postgres.dsn, owner=OWNER))  # not asked for while there is a database
    names = (
        "key",
        "new-key",
        "jwt",
        "token",
        "expired-jwt",
        "jwt-of-fetched-keys",
        "unknown-jwt",
        "revoked-key",
        "bad-token",
    )
    basic = base64.b64encode(f"user:{aviary.secrets['password']}".encode()).decode()
    return {name: f"Bearer {aviary.secrets[name]}" for name in names} | {
        "basic": f"Basic {basic}",
        "another scheme": f"Token {aviary.keep('other-scheme')}",
        "no scheme": aviary.keep("no-scheme"),
    }


def _ask_everything(scene: Scene, client: httpx.Client, authorization: str) -> None:
    """Every operation with this credential, for ids that nobody has, with secrets where they do not belong."""
    aviary = scene.aviary
    elsewhere = {
        "cookie": f"session={aviary.keep('cookie')}",
        "idempotency-key": aviary.keep("idempotency-key"),
        "x-api-key": aviary.keep("x-api-key"),
        "proxy-authorization": f"Basic {aviary.keep('proxy-authorization')}",
    }
    for operation in OPERATIONS.values():
        url = operation.url(
            unknown({"batch_id": "", "upload_id": "", "webhook_id": "", "delivery_id": "", "path": "a"})
        )
        request = operation.plain()
        headers = request["headers"] | elsewhere | {"authorization": authorization}
        in_query = {"access_token": aviary.keep("query"), "api_key": aviary.keep("other-query")}
        if operation.name in {"create_webhook", "rotate_secret"}:
            continue  # they show secrets, and are asked below
        with client.stream(operation.method, url, **request | {"headers": headers}) as answer:
            aviary.hear(answer)
        with client.stream(operation.method, url, **request | {"headers": headers, "params": in_query}) as answer:
            aviary.hear(answer)


def _put_in_wrong_places(scene: Scene, client: httpx.Client) -> None:
    """A key, where anything else is expected: bodies, fields and parameters that cannot be understood."""
    secret = scene.aviary.secrets["key"]
    batch = client.post("/v1/batches", json={}).json()["url"]
    upload = send(client, "/v1/uploads", File("a", b"a")).json()["results"][0]["upload"]["id"]
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/batches", {"json": {"label": {"x": secret}}}),
        ("POST", "/v1/batches", {"json": {"expected_uploads": secret}}),
        ("POST", "/v1/batches", {"json": {"webhook_url": secret}}),
        ("POST", "/v1/batches", {"json": {"metadata": secret, "api_key": secret}}),
        ("POST", "/v1/batches", {"json": secret}),
        ("POST", "/v1/batches", {"content": secret, "headers": {"content-type": "application/json"}}),
        ("POST", f"{batch}/retry", {"json": {"upload_ids": [secret]}}),
        ("POST", f"{batch}/manifest", {"json": {"entries": [{"ref": 1, "sha256": secret, "size_bytes": secret}]}}),
        ("POST", f"{batch}/tokens", {"json": {"expires_in_seconds": secret}}),
        ("POST", f"{batch}/uploads", {"content": secret, "headers": FORM}),
        (
            "POST",
            "/v1/uploads",
            {"content": multipart(File("a", b"a", name=secret)) + secret.encode(), "headers": FORM},
        ),
        ("PUT", f"{batch}/files/x", {"content": b"x", "headers": {"repr-digest": f"sha-256=:{secret}:"}}),
        ("PUT", f"{batch}/files/x", {"content": b"x", "headers": {"content-range": secret}}),
        ("PUT", f"/v1/uploads/{upload}/content", {"content": b"x", "headers": {"upload-offset": secret}}),
        ("GET", f"/v1/uploads/{upload}/content", {"headers": {"range": f"bytes={secret}", "if-range": secret}}),
        ("GET", batch, {"headers": {"prefer": f"wait={secret}", "if-none-match": secret}}),
        ("GET", f"{batch}/events", {"headers": {"last-event-id": secret}}),
        ("GET", f"{batch}/events", {"params": {"last_event_id": secret}}),
        ("GET", f"{batch}/events", {"params": {"access_token": secret}, "headers": {"authorization": ""}}),
        ("DELETE", batch, {"params": {"uploads": secret}}),
        *(
            ("GET", f"{path}?{name}={quote(secret)}", {})
            for path in ("/v1/batches", f"{batch}/uploads", "/v1/webhooks/deliveries")
            for name in ("limit", "status", "cursor", "changed_since", "batch_id")
        ),
        *(
            ("POST", "/v1/tus", {"headers": VERSION | {"upload-length": "4"} | {name: secret}})
            for name in ("upload-length", "upload-metadata", "upload-concat", "upload-defer-length", "tus-resumable")
        ),
        ("PATCH", f"/v1/tus/{upload}", {"headers": VERSION | {"upload-offset": secret, "upload-checksum": secret}}),
        *(
            ("POST", "/v1/batches", {"content": b"{}", "headers": {"content-type": kind} | more})
            for kind, more in (
                (secret, {}),
                ("application/json", {"content-encoding": secret}),
                ("application/json", {"expect": secret}),
                ("application/json", {"idempotency-key": f'{secret}"'}),
                ("application/json", {"origin": secret, "forwarded": secret, "x-forwarded-host": secret}),
            )
        ),
        ("POST", "/v1/webhooks", {"json": {"url": f"https://user:{secret}@example.org/?key={secret}"}}),
        ("POST", "/v1/webhooks", {"json": {"url": secret, "events": [secret]}}),
        ("GET", f"/v1/batches?limit=1&access_token={quote(secret)}", {}),
        ("OPTIONS", "/v1/batches", {"headers": {"access-control-request-headers": secret, "origin": secret}}),
    ]
    for method, path, request in asked:
        with client.stream(method, path, **request) as answer:
            if answer.status_code != 200 or "event-stream" not in answer.headers["content-type"]:
                scene.aviary.hear(answer)


def _tell_receivers(scene: Scene, client: httpx.Client) -> None:
    """Webhooks with secrets in their URLs, whose receiver is not there; a URL is shown to its owner alone."""
    aviary = scene.aviary
    url = f"http://127.0.0.1:9/{aviary.keep('webhook-path')}?key={aviary.keep('webhook-query')}"
    made = client.post("/v1/webhooks", json={"url": url}).json()
    aviary.keep("webhook-secret", made["secret"])
    batch = client.post("/v1/batches", json={"webhook_url": url.replace("9/", "9//")}).json()
    aviary.look("a batch", json.dumps(batch))
    client.post(f"{batch['url']}/cancel")
    deadline = time.monotonic() + 30
    while client.get("/v1/webhooks/deliveries?status=pending").json()["items"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    given_up = client.get("/v1/webhooks/deliveries?status=given_up").json()["items"]
    assert len(given_up) == 2
    for delivery in given_up:
        del delivery["url"]
    aviary.look("deliveries", json.dumps(given_up))
    rotated = client.post("/v1/webhooks/rotate")
    aviary.keep("rotated-secret", rotated.json()["secret"])
    aviary.hear(rotated, shown="rotated-secret")


def _break_the_database(scene: Scene, client: httpx.Client) -> None:
    """Rows that PostgreSQL refuses, in its own words, for a reason that nobody has foreseen."""
    aviary, plain = scene.aviary, scene.postgres.dsn
    url = f"http://127.0.0.1:9/?key={aviary.secrets['webhook-query']}"
    named = {"idempotency-key": aviary.keep("new-idempotency-key")}
    tables = ("upload_batches", "webhook_endpoints", "webhook_secrets", "idempotency_keys")
    execute(plain, *(f"ALTER TABLE {table} ADD CONSTRAINT no CHECK (false) NOT VALID" for table in tables))
    try:
        for path, request in (
            ("/v1/batches", {"json": {"webhook_url": url}, "headers": named}),
            ("/v1/webhooks", {"json": {"url": url}, "headers": named}),
            ("/v1/webhooks/rotate", {}),
        ):
            answer = client.post(path, **request)
            assert answer.status_code == 500
            aviary.hear(answer)
        execute(plain, "ALTER TABLE upload_batches DROP CONSTRAINT no")
        answer = client.post("/v1/batches", json={}, headers=named)
        assert answer.status_code == 500
        aviary.hear(answer)
    finally:
        execute(plain, *(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS no" for table in tables))


def _logs(scene: Scene) -> dict[str, str]:
    said = {"the service's log": scene.server.log, "the worker's log": scene.worker.log_path.read_text()}
    own = scene.folder.glob("**/*.log")
    return said | {"the log of PostgreSQL": "".join(path.read_text() for path in own)}


def test_no_secret_is_said_by_the_service(scene: Scene) -> None:
    """By no answer and no line of any log, at the lowest level, whatever goes wrong, and without its database."""
    aviary = scene.aviary
    with scene.server.client() as client, scene.server.client() as owner:
        owner.headers.update(bearer(aviary.secrets["key"]))
        credentials = _credentials(scene, owner)
        finished(owner, send(owner, "/v1/uploads", File("a", b"a")).json()["url"])
        new = credentials.pop("new-key")
        for authorization in credentials.values():
            _ask_everything(scene, client, authorization)
        aviary.hear(owner.get("/metrics"))
        _put_in_wrong_places(scene, owner)
        _tell_receivers(scene, owner)
        _break_the_database(scene, owner)
        credentials["new-key"] = new
        apart(scene.postgres.stop)
        try:
            for name in ("key", "new-key", "jwt", "revoked-key"):
                for method, path in (("GET", "/v1/batches"), ("POST", "/v1/batches"), ("GET", "/readyz")):
                    answer = client.request(method, path, headers={"authorization": credentials[name]})
                    assert answer.status_code == 503
                    aviary.hear(answer)
            for command in (("keys", "list"), ("migrate", "status"), ("serve",)):
                said = boatload(*command, database_url=scene.url, log_level="debug", data_dir=scene.server.data_dir)
                assert said.returncode != 0
                aviary.look(f"boatload {command}", said.stdout + said.stderr)
        finally:
            apart(scene.postgres.start)
    for where, said in _logs(scene).items():
        aviary.look(where, said)
        assert "database lost" in said or where == "the log of PostgreSQL"
    assert "boatload.audit" in scene.server.log
    assert "keys of an issuer not fetched" in scene.server.log
    assert 'violates check constraint "no"' in _logs(scene)["the log of PostgreSQL"]
    assert aviary.answers > 500
    assert "webhook given up" in _logs(scene)["the worker's log"]


@pytest.mark.parametrize("broken", ["postgres://u:{}@[::1/db", "mysql://u:{}@h/db", "postgresql://u:{}@h/%zz?x=%"])
def test_a_database_url_that_is_none_is_not_repeated(scene: Scene, broken: str) -> None:
    aviary = Aviary()
    url = broken.format(aviary.keep("database-password"))
    said = boatload("keys", "list", database_url=url, data_dir=scene.server.data_dir)
    assert said.returncode != 0
    aviary.look("boatload keys list", said.stdout + said.stderr)


def test_no_secret_is_said_by_push(scene: Scene, tmp_path: Path) -> None:
    """Where it succeeds, is refused, cannot be spoken, and where nobody answers; nor does it keep any on disk."""
    aviary = Aviary({"key": scene.aviary.secrets["key"]})
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").write_bytes(b"a")
    aviary.keep("in-url")
    tokens = ("unknown", "line\nend", "no-ascii-\u20ac")
    for url, token in (
        (scene.server.url, aviary.secrets["key"]),
        *((scene.server.url, f"{aviary.keep(name)} {name}") for name in tokens),
        ("http://127.0.0.1:9", aviary.secrets["key"]),
        (f"http://user:{aviary.secrets['in-url']}@127.0.0.1:9/?key={aviary.secrets['in-url']}", None),
        (f"http://user:{aviary.secrets['in-url']}@[::1/", None),
    ):
        pusher = Pusher(url, tmp_path / "state")
        given = ("--token", token) if token else ("--json",)
        _, out, err = pusher.text(*given, "--patience", 0, tmp_path / "files")
        aviary.look("push", out + err)
        for kept in pusher.states:
            aviary.look(str(kept.name), str(kept) + kept.read_text())
