"""`changed_since`: with one number a poller learns all that changed, whatever changes meanwhile."""

import threading
from uuid import uuid4

import httpx
import pytest

from tests.support.server import Boatload
from tests.support.wire import File, Json, all_uploads, finished, problem, send

SMALL = File("small", b"small")


def changed(
    client: httpx.Client, url: str, since: int, *, limit: int = 1000, **query: object
) -> tuple[list[Json], int]:
    """All pages of what changed, and the number to go on with."""
    found: list[Json] = []
    following: str | None = str(httpx.URL(f"{url}/uploads", params={"changed_since": since, "limit": limit, **query}))
    while following:
        answer = client.get(following)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page["version"] >= since
        found += page["items"]
        following = answer.links.get("next", {}).get("url")
        assert (following is None) == (page["next_cursor"] is None)
    return found, page["version"]


def test_only_what_changed_since_comes_in_the_order_of_its_changes(client: httpx.Client) -> None:
    url = client.post("/v1/batches").headers["location"]
    send(client, f"{url}/uploads", SMALL, SMALL, SMALL)
    waited = 0
    while client.get(url).json()["processed_uploads"] < 3:
        waited += 1
        assert waited < 3000
    everything, version = changed(client, url, 0)
    assert version == client.get(url).json()["version"]
    assert {one["id"] for one in everything} == {one["id"] for one in all_uploads(client, url)}
    assert [(one["version"], one["id"]) for one in everything] == sorted(
        (one["version"], one["id"]) for one in everything
    )
    assert changed(client, url, version) == ([], version)
    more = send(client, f"{url}/uploads", SMALL).json()["results"][0]["upload"]["id"]
    news, later = changed(client, url, version)
    assert [one["id"] for one in news] == [more]
    assert later > version
    for limit in (1, 2, 3):
        assert [one["id"] for one in changed(client, url, 0, limit=limit)[0]][:3] == [one["id"] for one in everything]


def test_it_may_be_combined_with_a_state(client: httpx.Client) -> None:
    url = client.post("/v1/batches").headers["location"]
    send(client, f"{url}/uploads", File("../refused"), SMALL, File("../refused"), SMALL)
    client.post(f"{url}/seal")
    finished(client, url)
    for limit in (1, 1000):
        for status in ("failed", "completed"):
            found, _ = changed(client, url, 0, limit=limit, status=status)
            assert [one["status"] for one in found] == [status] * 2
        assert changed(client, url, 0, limit=limit, status="cancelled")[0] == []


def test_pages_miss_nothing_while_rows_move(server: Boatload, client: httpx.Client) -> None:
    url = client.post("/v1/batches").headers["location"]

    def fill() -> None:
        with server.client() as sender:
            for _ in range(15):
                send(sender, f"{url}/uploads", *[SMALL] * 40)
            sender.post(f"{url}/seal")

    filling = threading.Thread(target=fill)
    filling.start()
    known: dict[str, Json] = {}
    since, rounds = 0, 0
    while True:
        status = client.get(url).json()["status"]
        news, since = changed(client, url, since, limit=17)
        for one in news:
            assert one["id"] not in known or one["version"] > known[one["id"]]["version"]
            known[one["id"]] = one
        rounds += 1
        if status == "completed":
            break
    filling.join()
    assert rounds > 5
    assert known == {one["id"]: one for one in all_uploads(client, url)}
    assert len(known) == 600


@pytest.mark.parametrize("since", ["-1", "x", "1.5", "9223372036854775808", ""])
def test_what_is_no_version_is_refused(client: httpx.Client, since: str) -> None:
    url = client.post("/v1/batches").headers["location"]
    problem(client.get(f"{url}/uploads?changed_since={since}"), 422, "invalid-request")


def test_cursors_belong_to_their_list(client: httpx.Client) -> None:
    url = client.post("/v1/batches").headers["location"]
    send(client, f"{url}/uploads", SMALL, SMALL, SMALL)
    plain = client.get(f"{url}/uploads?limit=1").json()["next_cursor"]
    of_changes = client.get(f"{url}/uploads?limit=1&changed_since=0").json()["next_cursor"]
    for query in (
        f"changed_since=0&cursor={plain}",
        f"cursor={of_changes}",
        f"changed_since=1&cursor={of_changes}",
        f"changed_since=0&status=failed&cursor={of_changes}",
    ):
        problem(client.get(f"{url}/uploads?limit=1&{query}"), 422, "invalid-cursor")
    problem(client.get(f"/v1/batches/{uuid4()}/uploads?changed_since=0"), 404, "not-found")
