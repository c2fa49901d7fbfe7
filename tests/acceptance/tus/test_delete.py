"""DELETE (tus 1.0.0, "Termination"): gone for whoever asks, and out of every count."""

import pytest

from tests.support.tus import ENDPOINT, Tus, refused, states
from tests.support.values import UNKNOWN
from tests.support.wire import finished, problem


@pytest.mark.parametrize("received", [0, 5, 10])
def test_what_is_deleted_is_gone(tus: Tus, received: int) -> None:
    url = tus.create(10)
    tus.patch(url, 0, b"helloworld"[:received])
    answer = tus.delete(url)
    assert answer.status_code == 204
    assert answer.content == b""
    head = tus.head(url)
    assert head.status_code in {404, 410}
    assert "upload-offset" not in head.headers
    assert tus.patch(url, received, b"x").status_code in {404, 410}
    assert tus.delete(url).status_code in {404, 410}


def test_it_is_counted_out_of_its_batch(tus: Tus) -> None:
    batch = tus.open_batch()
    url, other = tus.create(10, batch=batch["id"]), tus.create(7, batch=batch["id"])
    tus.patch(url, 0, b"hello")
    tus.patch(other, 0, b"abc")
    tus.delete(url)
    left = tus.batch(batch["url"])
    assert states(left) == {"total": 1, "receiving": 1}
    assert (left["total_bytes"], left["received_bytes"]) == (7, 3)
    assert left["version"] > batch["version"]


def test_what_is_processed_already_can_be_deleted(tus: Tus) -> None:
    url = tus.stored(b"hello")
    batch = finished(tus.client, tus.batch_of(url)["url"])
    upload = tus.upload(url)
    assert tus.delete(url).status_code == 204
    problem(tus.client.get(f"/v1/uploads/{upload['id']}"), 404, "not-found")
    assert states(tus.batch(batch["url"])) == {}


@pytest.mark.parametrize("identity", [UNKNOWN, "x", "..%2f", "%00"])
def test_what_is_not_there_answers_404(tus: Tus, identity: str) -> None:
    refused(tus.delete(f"{ENDPOINT}/{identity}"), 404, "not-found")


def test_a_sealed_batch_finishes_without_what_was_deleted(tus: Tus) -> None:
    batch = tus.open_batch()
    kept, dropped = tus.create(5, batch=batch["id"]), tus.create(5, batch=batch["id"])
    tus.client.post(f"{batch['url']}/seal")
    tus.patch(kept, 0, b"hello")
    tus.delete(dropped)
    assert states(finished(tus.client, batch["url"])) == {"total": 1, "processed": 1, "successful": 1}
