"""Batches as the next commit will find them: told only where nobody else can have moved them unseen."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app.domain.batch import Batch, new_batch
from app.ingest.foresight import Sight
from app.ingest.foretelling import LastBatches

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = UUID(int=1)
BASE = new_batch(UUID(int=2), OWNER, now=NOW, expires_at=NOW + timedelta(days=1))


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def at(version: int) -> Batch:
    return replace(BASE, version=version)


def moved(last: LastBatches, before: int, after: int) -> None:
    last.learn({BASE.id: at(before)}, [at(after)])


def told(last: LastBatches, *versions: int) -> int:
    batches = last.foretell(Sight({BASE.id: at(version)}) for version in versions)
    assert batches is not None
    return batches[BASE.id].version


@pytest.mark.parametrize(
    ("moves", "seen", "found"),
    [
        ([], 3, 3),
        ([(3, 4)], 3, 4),
        ([(3, 4)], 4, 4),
        ([(3, 4)], 2, 2),  # somebody has moved it in between
        ([(3, 4)], 5, 5),  # somebody has moved it since
        ([(3, 4), (4, 7)], 3, 7),
        ([(3, 4), (5, 6)], 3, 3),  # somebody has moved it from 4 to 5
        ([(3, 4), (5, 6)], 5, 6),
    ],
)
def test_what_this_process_alone_has_moved_is_told(moves: list[tuple[int, int]], seen: int, found: int) -> None:
    last = LastBatches(Watch())
    for before, after in moves:
        moved(last, before, after)
    assert told(last, seen) == found


def test_of_several_looks_the_oldest_counts() -> None:
    last = LastBatches(Watch())
    moved(last, 3, 4)
    assert told(last, 4, 3) == 4
    assert told(last, 4, 2) == 2


def test_nothing_is_told_where_something_has_to_be_locked() -> None:
    last = LastBatches(Watch())
    held = {(OWNER, b"digest", 1): (UUID(int=3), 0)}
    assert last.foretell([Sight({BASE.id: BASE}), Sight({}, is_new=False)]) is None
    assert last.foretell([Sight({BASE.id: BASE}, held=held)]) is None


def test_what_was_forgotten_is_not_told() -> None:
    last = LastBatches(Watch())
    moved(last, 3, 4)
    last.forget([BASE.id, UUID(int=9)])
    assert told(last, 3) == 3
    assert last.recall([(BASE.id, OWNER)]) == {}


def test_only_what_was_left_a_moment_ago_is_recalled() -> None:
    watch = Watch()
    last = LastBatches(watch)
    moved(last, 3, 4)
    watch.now = 0.1
    assert last.recall([(BASE.id, OWNER), (UUID(int=9), OWNER)]) == {BASE.id: at(4)}
    assert last.recall([(BASE.id, UUID(int=9))]) == {}, "it is nobody else's"
    watch.now = 0.2
    assert last.recall([(BASE.id, OWNER)]) == {}


def test_it_does_not_remember_without_end() -> None:
    last = LastBatches(Watch())
    for number in range(3000):
        batch = replace(BASE, id=UUID(int=number), version=2)
        last.learn({batch.id: replace(batch, version=1)}, [batch])
    assert len(last.recall((UUID(int=number), OWNER) for number in range(3000))) <= 1001
