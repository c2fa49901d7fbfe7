"""`boatload keys`, and what a running service makes of it."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from app.domain.ids import LOCAL_OWNER
from tests.acceptance.auth.conftest import Guarded
from tests.support.credentials import bearer
from tests.support.postgres import Servers, fetch
from tests.support.server import Boatload, boatload, serving
from tests.support.wire import File, send

SOON_SECONDS = 30
"""Five are promised, on a machine that has time."""


@pytest.fixture
def url(postgres_servers: Servers) -> str:
    return postgres_servers.get("18").create_migrated()


def make(url: str, *arguments: str) -> str:
    made = boatload("keys", "create", *arguments, database_url=url)
    assert made.returncode == 0, made.stderr
    secret = made.stdout.removesuffix("\n")
    assert secret.startswith("blk_")
    assert "\n" not in secret
    assert secret not in made.stderr
    return secret


def listed(url: str) -> list[dict[str, str]]:
    shown = boatload("keys", "list", database_url=url)
    assert shown.returncode == 0, shown.stderr
    head, *lines = shown.stdout.splitlines()
    starts = {name: head.index(name) for name in ("id", "state", "scopes", "owner", "created", "name")}
    ends = [*list(starts.values())[1:], None]
    return [
        {name: line[start:end].strip() for (name, start), end in zip(starts.items(), ends, strict=True)}
        for line in lines
    ]


def soon(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_key_is_shown_once_listed_used_and_revoked(url: str) -> None:
    secret = make(url, "the nightly run")
    with serving(database_url=url) as server, server.client() as client:
        assert client.get("/v1/batches").status_code == 401
        client.headers.update(bearer(secret))
        assert send(client, "/v1/uploads", File("a", b"x")).status_code == 201
        assert client.get("/v1/webhooks").status_code == 403

        [key] = listed(url)
        assert key["name"] == "the nightly run"
        assert key["state"] == "active"
        assert key["scopes"] == "read,write"
        assert key["owner"] == str(LOCAL_OWNER)
        assert secret not in boatload("keys", "list", database_url=url).stdout

        revoked = boatload("keys", "revoke", key["id"], database_url=url)
        assert revoked.returncode == 0, revoked.stderr
        soon(lambda: client.get("/v1/batches").status_code == 401)
    [key] = listed(url)
    assert key["state"] == "revoked"
    [row] = fetch(url, "SELECT octet_length(digest) AS size, last_used_at FROM api_keys")
    assert row["size"] == 32
    assert row["last_used_at"] is not None  # written at the latest when the service ends


def test_keys_of_users_with_scopes_and_a_life(url: str) -> None:
    make(url, "one", "--user", "new", "--scope", "read", "--days", "3")
    make(url, "two", "--user", "11111111-1111-4111-8111-111111111111", "--scope", "read", "--scope", "admin")
    one, two = listed(url)
    assert UUID(one["owner"]).version == 7
    assert one["scopes"] == "read"
    assert two["owner"] == "11111111-1111-4111-8111-111111111111"
    assert two["scopes"] == "read,admin"
    [row] = fetch(url, "SELECT expires_at - created_at AS life FROM api_keys WHERE name = 'one'")
    assert 2.9 < row["life"].total_seconds() / 86400 < 3.1


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "x", "--user", "me"),
        ("create", "x", "--scope", "everything"),
        ("create", "x", "--days", "0"),
        ("create",),
        ("revoke", "x"),
        ("revoke", "11111111-1111-4111-8111-111111111111"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(url: str, arguments: tuple[str, ...]) -> None:
    result = boatload("keys", *arguments, database_url=url)
    assert result.returncode in {1, 2}
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert fetch(url, "SELECT FROM api_keys") == []


def test_the_first_key_ends_the_time_without_credentials(url: str) -> None:
    """And what was sent before belongs to it."""
    with serving(database_url=url) as server, server.client() as client:
        batch = send(client, "/v1/uploads", File("a", b"x")).json()["url"]
        assert client.get(batch, headers=bearer("blk_unknown")).status_code == 401  # nothing wrong is let pass
        secret = make(url, "first")
        soon(lambda: client.get(batch).status_code == 401)
        assert client.get(batch, headers=bearer(secret)).status_code == 200
        boatload("keys", "revoke", listed(url)[0]["id"], database_url=url)
        soon(lambda: client.get(batch, headers=bearer(secret)).status_code == 401)
        assert client.get(batch).status_code == 401  # the last key gone opens nothing
    with serving(database_url=url) as server, server.client() as client:
        assert client.get(batch).status_code == 401
    with serving(database_url=url, allow_anonymous=True) as server, server.client() as client:
        assert client.get(batch).status_code == 200
        assert client.get(batch, headers=bearer(secret)).status_code == 401


def test_keys_are_made_beside_a_running_embedded_database_and_before_the_first_start(server: Boatload) -> None:
    with serving() as own, own.client() as client:
        data_dir = own.data_dir
        made = boatload("keys", "create", "x", data_dir=data_dir)
        assert made.returncode == 0, made.stderr
        assert client.get("/v1/batches", headers=bearer(made.stdout.strip())).status_code == 200
        own.stop()
        made = boatload("keys", "create", "y", data_dir=data_dir)
        assert made.returncode == 0, made.stderr
        own.start()
        with own.client() as again:
            assert again.get("/v1/batches").status_code == 401
            assert again.get("/v1/batches", headers=bearer(made.stdout.strip())).status_code == 200


def test_push_shows_its_token(guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"pushed with a key")
    push = partial(boatload, "push", str(tmp_path / "folder"), "--json", "--patience", "0", "--url", guarded.server.url)
    for token, reason in (({}, "Send a credential"), ({"token": "blk_unknown"}, "There is no such key")):
        refused = push(**token)
        assert refused.returncode == 3
        assert reason in refused.stdout
    for pushed in (push(token=guarded.key), push("--token", guarded.key)):
        assert pushed.returncode == 0, pushed.stdout + pushed.stderr
        assert guarded.key not in pushed.stdout + pushed.stderr
