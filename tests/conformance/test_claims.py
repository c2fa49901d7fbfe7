from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from app.domain.errors import StorageUnavailableError
from app.domain.ids import new_id
from app.storage.base import Store
from tests.conformance.objects import is_claimable, read, remove, write_and_be_killed, written


def test_an_object_cannot_be_claimed_while_its_writer_is_open(store: Store, *, big: bool) -> None:
    writer = store.create(new_id(), big=big)
    assert not is_claimable(store, writer.object_id)
    writer.write([b"x"])
    assert not is_claimable(store, writer.object_id)
    writer.sync()
    assert not is_claimable(store, writer.object_id)
    writer.close()
    assert is_claimable(store, writer.object_id)


def test_the_same_holds_for_another_process(store: Store, elsewhere: ProcessPoolExecutor) -> None:
    writer = store.create(new_id())
    writer.write([b"x"])
    writer.sync()
    assert not elsewhere.submit(is_claimable, store, writer.object_id).result()
    writer.close()
    assert elsewhere.submit(is_claimable, store, writer.object_id).result()
    elsewhere.submit(remove, store, writer.object_id).result()
    assert list(store.list()) == []


def test_a_killed_process_holds_nothing(store: Store) -> None:
    object_id = new_id()
    process = get_context("spawn").Process(target=write_and_be_killed, args=(store, object_id, [b"x"]))
    process.start()
    process.join(30)
    assert process.exitcode == -9
    assert read(store, object_id, 1) == b"x"
    assert is_claimable(store, object_id)


def test_objects_are_held_one_by_one(store: Store) -> None:
    first, second = store.create(new_id()), store.create(new_id())
    first.close()
    assert is_claimable(store, first.object_id)
    assert not is_claimable(store, second.object_id)
    second.close()


def test_a_failed_attempt_to_claim_does_not_disturb_the_writer(store: Store) -> None:
    writer = store.create(new_id())
    for _ in range(3):
        assert not is_claimable(store, writer.object_id)
    writer.write([b"still mine"])
    writer.sync()
    assert not is_claimable(store, writer.object_id)
    writer.close()
    assert read(store, writer.object_id, 10) == b"still mine"


def test_a_claimed_object_is_there_until_it_is_removed(store: Store) -> None:
    object_id = written(store, b"x")
    kept = written(store, b"y")
    claim = store.claim_abandoned(object_id)
    assert claim
    assert read(store, object_id, 1) == b"x"
    claim.remove()
    assert list(store.list()) == [kept]
    with pytest.raises(StorageUnavailableError):
        store.open(object_id)
    claim.remove()
    claim.release()
    claim.release()


def test_a_claim_given_back_leaves_the_object(store: Store) -> None:
    object_id = written(store, b"x")
    assert is_claimable(store, object_id)
    assert is_claimable(store, object_id)
    assert read(store, object_id, 1) == b"x"


@pytest.mark.parametrize("gone", ["never there", "discarded", "removed"])
def test_an_object_that_is_gone_can_be_claimed_and_removed_again(store: Store, gone: str) -> None:
    object_id = new_id()
    if gone == "discarded":
        writer = store.create(object_id)
        writer.discard()
    if gone == "removed":
        object_id = written(store, b"x")
        remove(store, object_id)
    remove(store, object_id)
    assert list(store.list()) == []


def test_an_object_can_be_claimed_while_it_is_read(store: Store) -> None:
    object_id = written(store, b"x")
    reader = store.open(object_id)
    assert is_claimable(store, object_id)
    reader.close()
