"""Nobody learns anything of another owner's things, not even that they are there: each operation and each id."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.acceptance.auth.conftest import OWNER, STRANGER, Guarded
from tests.support.census import unchanged
from tests.support.credentials import make_key
from tests.support.foreign import DATA, DOCUMENT, OPERATIONS, Belongings, Operation, make_belongings, unknown
from tests.support.postgres import Servers, fetch, in_loop
from tests.support.server import serving
from tests.support.tus import Tus, metadata
from tests.support.wire import File, Text, everything, finished, problem, send

ABOUT_ONE = [name for name, operation in OPERATIONS.items() if operation.ids]
OF_THE_MOMENT = {"x-request-id", "date", "connection"}
"""Each answer's own; an answer ends its connection where a part of the body had not come yet."""
UNFINISHED = """
    SELECT (SELECT count(*) FROM uploads WHERE status IN ('pending', 'processing'))
        + (SELECT count(*) FROM webhook_deliveries WHERE status = 'pending') AS count
"""
PLACES = "SELECT user_id, object_id, object_offset FROM uploads WHERE sha256 = $1"
ROOM = 50
TABLES = ("upload_batches", "uploads", "objects", "webhook_endpoints", "webhook_deliveries", "webhook_secrets")
NAMED_INSIDE = {"list_deliveries.batch_id", "retry_batch.upload_ids", "upload_files.batch_id"}
"""What names a thing elsewhere than in a path. Of tus: `batch_id` in Upload-Metadata, uploads in Upload-Concat."""


@pytest.fixture(scope="module")
def service(postgres_servers: Servers) -> Iterator[Guarded]:
    """A server of our own: the stranger has nothing. What is told to nobody is given up at once."""
    url = postgres_servers.get("18").create_migrated()
    key, strangers = (make_key(url, owner=owner) for owner in (OWNER, STRANGER))
    lax = {"webhook_allow_private": True, "webhook_retry_seconds": 1, "quota_files": ROOM}
    with serving(database_url=url, **lax) as server:
        yield Guarded(server, url, key, strangers)


@pytest.fixture(scope="module")
def belongings(service: Guarded) -> Belongings:
    async def run() -> Belongings:
        async with service.server.async_client() as client:
            client.headers["authorization"] = f"Bearer {service.key}"
            return await make_belongings(client)

    found = in_loop(run)
    with service.client(service.key) as client:
        finished(client, f"/v1/batches/{found.ids['batch_id'][0]}")
    return found


@pytest.fixture
def owner(service: Guarded) -> Iterator[httpx.Client]:
    with service.client(service.key) as client:
        yield client


@pytest.fixture
def stranger(service: Guarded) -> Iterator[httpx.Client]:
    with service.client(service.strangers) as client:
        yield client


def rows(service: Guarded) -> dict[str, list[str]]:
    """All that the database has, row by row."""
    tables = {table: f"SELECT t::text AS row FROM {table} t ORDER BY 1" for table in TABLES}
    return {table: [row["row"] for row in fetch(service.url, query)] for table, query in tables.items()}


@contextmanager
def untouched(service: Guarded) -> Iterator[None]:
    """Say that not a row, not a byte is another behind the block. Before it, what was begun comes to its end."""
    deadline = time.monotonic() + 30
    while fetch(service.url, UNFINISHED)[0]["count"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    before = rows(service)
    with unchanged(service.server):
        yield
    assert rows(service) == before


def shown(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """All of an answer but for what is of the moment."""
    fields = [(name, value) for name, value in answer.headers.multi_items() if name not in OF_THE_MOMENT]
    return answer.status_code, fields, answer.content


@pytest.mark.parametrize("name", ABOUT_ONE)
def test_a_foreign_id_is_answered_as_one_that_nobody_has(
    service: Guarded, belongings: Belongings, stranger: httpx.Client, name: str
) -> None:
    operation = OPERATIONS[name]
    with untouched(service):
        for foreign in belongings.named_by(operation):
            for number, (one, other) in enumerate(zip(operation.requests(), operation.requests(), strict=True)):
                theirs = stranger.request(operation.method, operation.url(foreign), **one)
                nobodys = stranger.request(operation.method, operation.url(unknown(foreign)), **other)
                assert shown(theirs) == shown(nobodys), (foreign, one)
                assert theirs.status_code == 404 or number == 0, theirs.text
                if theirs.status_code == 404 and operation.method != "HEAD":
                    problem(theirs, 404, "not-found")


@pytest.mark.parametrize("name", [name for name in ABOUT_ONE if OPERATIONS[name].method in {"GET", "HEAD"}])
def test_the_owner_finds_them(belongings: Belongings, owner: httpx.Client, name: str) -> None:
    """So what the test above asks for is there, and asked for rightly."""
    operation = OPERATIONS[name]
    found = set()
    for values in belongings.named_by(operation):
        with owner.stream(operation.method, operation.url(values), **next(operation.requests())) as answer:
            found.add(answer.status_code)
    assert found & {200, 204}, found


def test_lists_show_nothing_of_others(service: Guarded, belongings: Belongings, stranger: httpx.Client) -> None:
    asked = 0
    with untouched(service):
        for operation in OPERATIONS.values():
            if operation.method != "GET" or operation.ids:
                continue
            answer = stranger.get(operation.path)
            assert not [one for one in (*belongings.all_ids, str(OWNER)) if one in answer.text], operation.name
            if "items" in answer.json():
                assert answer.json()["items"] == []
                assert "link" not in answer.headers
                asked += 1
        assert asked == 3
        assert stranger.get("/v1/quota").json()["files"] == {"limit": ROOM, "used": 0}


def test_ids_in_queries_and_bodies_are_known_to_this_test() -> None:
    """One that is added stands here, and is tried below."""
    found = {
        f"{operation.name}.{name}"
        for operation in OPERATIONS.values()
        for name in (*_ids_in(operation.parameters), *_ids_in(_bodies_of(operation)))
    }
    assert found == NAMED_INSIDE


def _bodies_of(operation: Operation) -> Any:  # noqa: ANN401 - any JSON
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]
    return described.get("requestBody", {})


def _ids_in(part: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    """The names of parameters and members that are ids by their name or their form, but for those of paths."""
    if isinstance(part, dict):
        if "$ref" in part:
            yield from _ids_in(DOCUMENT["components"]["schemas"][part["$ref"].rpartition("/")[2]])
        if part.get("in") == "query" and _is_id(part["name"], part["schema"]):
            yield part["name"]
        yield from (name for name, schema in part.get("properties", {}).items() if _is_id(name, schema))
        for value in part.values():
            yield from _ids_in(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _ids_in(value)


def _is_id(name: str, schema: object) -> bool:
    return (name.endswith(("_id", "_ids")) and name != "last_event_id") or '"uuid"' in json.dumps(schema)


def test_ids_elsewhere_are_answered_as_those_that_nobody_has(
    service: Guarded, belongings: Belongings, stranger: httpx.Client
) -> None:
    own = stranger.post("/v1/batches", json={}).json()["id"]
    part = belongings.ids["upload_id"][-1]

    def ask(batch: str, upload: str) -> list[httpx.Response]:
        tus = Tus(stranger)
        final = f"final;/v1/tus/{upload}"
        return [
            stranger.post(f"/v1/batches/{own}/retry", json={"upload_ids": [upload]}),
            send(stranger, "/v1/uploads", Text("batch_id", batch), File("x", DATA)),
            send(
                stranger, "/v1/uploads", Text("batch_id", batch), File("x", DATA), **{"idempotency-key": str(uuid4())}
            ),
            stranger.get(f"/v1/webhooks/deliveries?batch_id={batch}"),
            tus.post(upload_length=4, upload_metadata=metadata(batch_id=batch)),
            tus.post(
                DATA, upload_length=4, upload_metadata=metadata(batch_id=batch, filename="a"), idempotency_key=uuid4()
            ),
            tus.post(upload_concat=final),
            tus.post(upload_concat=final, upload_metadata=metadata(batch_id=own)),
        ]

    with untouched(service):
        nobodys = ask(str(uuid4()), str(uuid4()))
        assert [answer.status_code for answer in nobodys] == [404, 404, 404, 200, 404, 404, 404, 404]
        for batch, upload in zip(belongings.ids["batch_id"], [part, *belongings.ids["upload_id"]], strict=False):
            assert [*map(shown, ask(batch, upload))] == [*map(shown, nobodys)]
    assert stranger.delete(f"/v1/batches/{own}").status_code == 204


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/batches", None),
        ("/v1/batches?status=completed", None),
        ("/v1/batches/{}/uploads", 0),
        ("/v1/batches/{}/uploads?changed_since=0", 0),
        ("/v1/webhooks/deliveries", None),
    ],
)
def test_a_cursor_of_another_owner_is_none(
    service: Guarded, owner: httpx.Client, stranger: httpx.Client, path: str, named: int | None
) -> None:
    """Neither for the list that it is of nor for a list of the stranger's own."""
    lists = []
    for client in (owner, stranger):
        for number in range(2):
            batch = send(client, "/v1/uploads", File("a", b"%d" % number), File("b", b"x%d" % number)).json()["url"]
            finished(client, batch)
            url = client.post("/v1/batches", json={"webhook_url": f"http://127.0.0.1:9/{number}"}).headers["location"]
            client.post(f"{url}/cancel")
        lists.append(path.format(batch.rpartition("/")[2]) if named is not None else path)
    mine, theirs = lists
    join = "&" if "?" in path else "?"
    cursor = owner.get(f"{mine}{join}limit=1").json()["next_cursor"]
    assert owner.get(f"{mine}{join}limit=1&cursor={cursor}").json()["items"]
    problem(stranger.get(f"{theirs}{join}limit=1&cursor={cursor}"), 422, "invalid-cursor")
    forged = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
    foreign = stranger.get(f"{mine}{join}limit=1&cursor={cursor}")
    assert shown(foreign) == shown(stranger.get(f"{mine}{join}limit=1&cursor={forged}"))
    problem(foreign, 422, "invalid-cursor")
    assert len(everything(stranger, f"{theirs}{join}limit=1")) >= 2


def test_bytes_of_another_owner_are_never_there_already(
    service: Guarded, belongings: Belongings, owner: httpx.Client, stranger: httpx.Client
) -> None:
    """Through no door: who says that they have a file must send it."""
    sha256, size = hashlib.sha256(belongings.data).hexdigest(), len(belongings.data)
    entry = {"ref": "a", "filename": "a", "size_bytes": size, "sha256": sha256}
    fresh = send(stranger, "/v1/uploads", File("a", b"only mine")).json()["results"][0]["status"]
    same = send(stranger, "/v1/uploads", File("a", b"only mine")).json()["results"][0]["status"]
    assert (fresh, same) == ("stored", "duplicate")
    assert send(owner, "/v1/uploads", File("a", b"only mine")).json()["results"][0]["status"] == "stored"
    for client, action in ((stranger, "upload"), (owner, "have")):
        batch = client.post("/v1/batches", json={}).headers["location"]
        [told] = client.post(f"{batch}/manifest", json={"entries": [entry]}).json()["entries"]
        assert (told["action"], told["offset"]) == (action, size if action == "have" else 0)
    for door in ("multipart", "PUT", "tus"):
        data = b"%s %s" % (belongings.data, door.encode())
        for client in (owner, stranger, stranger):
            _send_by(door, client, data)
        found = fetch(service.url, PLACES, hashlib.sha256(data).digest())
        places = {
            user: {(row["object_id"], row["object_offset"]) for row in found if row["user_id"] == user}
            for user in (OWNER, STRANGER)
        }
        assert [len(places[OWNER]), len(places[STRANGER])] == [1, 1], door
        assert not places[OWNER] & places[STRANGER], door


def _send_by(door: str, client: httpx.Client, data: bytes) -> None:
    if door == "multipart":
        assert send(client, "/v1/uploads", File("x", data)).status_code == 201
        return
    batch = client.post("/v1/batches", json={}).json()
    if door == "PUT":
        assert client.put(f"{batch['url']}/files/a", content=data).status_code == 201
    else:
        Tus(client).stored(data, batch=batch["id"])


def test_the_same_idempotency_key_of_two_owners_is_two_keys(owner: httpx.Client, stranger: httpx.Client) -> None:
    """With the same request and with another, of every kind that takes keys."""
    key = {"idempotency-key": str(uuid4())}
    mine, theirs = (client.post("/v1/batches", json={"label": "x"}, headers=key) for client in (owner, stranger))
    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert mine.json()["id"] != theirs.json()["id"]
    assert mine.json()["user_id"] != theirs.json()["user_id"]
    assert stranger.post("/v1/batches", json={"label": "x"}, headers=key).content == theirs.content
    other = {"idempotency-key": str(uuid4())}
    assert owner.post("/v1/batches", json={"label": "mine"}, headers=other).status_code == 201
    assert stranger.post("/v1/batches", json={"label": "theirs"}, headers=other).status_code == 201
    sent = [
        send(client, "/v1/uploads", File("x", b"of two"), **{"idempotency-key": "jobs"}).json()["batch"]["id"]
        for client in (owner, stranger)
    ]
    made = [Tus(client).create(4, idempotency_key="tus") for client in (owner, stranger)]
    assert len({*sent, *made}) == 4
    assert stranger.get(f"/v1/batches/{sent[0]}").status_code == 404


@pytest.fixture(scope="module")
def lent(service: Guarded, belongings: Belongings) -> Iterator[httpx.Client]:
    """Somebody with a token for another batch of the same owner."""
    with service.client(service.key) as owner:
        own = owner.post("/v1/batches", json={}).headers["location"]
        token = owner.post(f"{own}/tokens", json={}).json()["token"]
    assert own.rpartition("/")[2] not in belongings.ids["batch_id"]
    with service.client(token) as client:
        yield client


@pytest.mark.parametrize("name", ABOUT_ONE)
def test_a_token_tells_nothing_of_other_batches_of_its_owner(
    service: Guarded, belongings: Belongings, lent: httpx.Client, name: str
) -> None:
    operation = OPERATIONS[name]
    with untouched(service):
        for others in belongings.named_by(operation):
            for one, other in zip(operation.requests(), operation.requests(), strict=True):
                theirs = lent.request(operation.method, operation.url(others), **one)
                nobodys = lent.request(operation.method, operation.url(unknown(others)), **other)
                assert shown(theirs) == shown(nobodys), (others, one)
                assert theirs.status_code in {403, 404}


def test_a_token_does_not_go_on_with_a_request_of_its_owner(
    service: Guarded, owner: httpx.Client, lent: httpx.Client
) -> None:
    """Though it knows the key and what was sent: it would be told of another batch, and could add to it."""
    batch = owner.post("/v1/batches", json={}).json()["id"]
    for parts in ((Text("batch_id", batch), File("x", b"kept before")), (File("x", b"a job of its own"),)):
        named = {"idempotency-key": str(uuid4())}
        assert send(owner, "/v1/uploads", *parts, **named).status_code == 201
        with untouched(service):
            problem(send(lent, "/v1/uploads", *parts, **named), 404, "not-found")
            problem(send(lent, "/v1/uploads", *parts, File("y", b"more"), **named), 404, "not-found")


def test_what_one_owner_holds_leaves_others_their_quota(
    service: Guarded, owner: httpx.Client, stranger: httpx.Client
) -> None:
    used = stranger.get("/v1/quota").json()["files"]
    room = ROOM - owner.get("/v1/quota").json()["files"]["used"]
    full = send(owner, "/v1/uploads", *(File(f"{number}", b"%d" % number) for number in range(room)))
    assert full.status_code == 201
    problem(
        owner.put(f"{owner.post('/v1/batches', json={}).headers['location']}/files/a", content=b"x"),
        413,
        "quota-exceeded",
    )
    assert stranger.get("/v1/quota").json()["files"] == used
    assert send(stranger, "/v1/uploads", File("a", b"a")).status_code == 201
