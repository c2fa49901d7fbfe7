"""The sandbox with real children and real plug-ins: what a file does to its child costs that file, and no other."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from app.domain.ids import new_id
from app.processing.outcome import Outcome
from app.processing.sandbox import Sandbox
from tests.support import plug_ins
from tests.support.files import png
from tests.support.postgres import until
from tests.support.workbench import Bench, bench

MISBEHAVE = ("inspect", "misbehave")
SECONDS = 3.0


@pytest.fixture(autouse=True)
def plug_ins_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "plug-ins"
    folder.mkdir()
    plug_ins.install(folder)
    plug_ins.show(folder, monkeypatch)


@pytest.fixture
async def misbehaving(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(
        tmp_path / "objects", processors=MISBEHAVE, seconds=SECONDS, memory_bytes=512 << 20, log_level="error"
    ) as made:
        yield made


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "app.processing.child" in child.cmdline()]


def sleep_through(child: psutil.Process) -> None:
    """Return when the child has ended; no event loop runs here meanwhile."""
    deadline = time.monotonic() + 60
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def code(outcome: Outcome) -> str | None:
    return outcome.error.code if outcome.error else None


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        (b"crash", "processor-crashed"),
        (b"exit", "processor-crashed"),
        (b"loop", "processor-timeout"),
        (b"hang", "processor-timeout"),
        (b"eat", "processor-out-of-memory"),
    ],
)
async def test_a_file_that_costs_its_child_is_alone_to_blame(misbehaving: Bench, word: bytes, wanted: str) -> None:
    words = [b"nothing"] * 40
    words[7] = words[23] = word
    began = time.monotonic()
    outcomes = await misbehaving.process(misbehaving.stored(*words))
    blamed = {number: (code(one), one.passing) for number, one in enumerate(outcomes) if one.error}
    assert blamed == {7: (wanted, True), 23: (wanted, True)}
    assert all(
        one.found and one.found.metadata == {"misbehave": {"did": "nothing"}} for one in outcomes if not one.error
    )
    assert not any(one.blameless for one in outcomes)
    assert time.monotonic() - began < 2 * SECONDS + 15


async def test_files_that_all_cost_their_child_end_one_by_one(misbehaving: Bench) -> None:
    outcomes = await misbehaving.process(misbehaving.stored(*[b"exit"] * 12))
    assert [code(one) for one in outcomes] == ["processor-crashed"] * 12


async def test_what_a_processor_started_dies_with_it(misbehaving: Bench) -> None:
    with capture_logs() as logs:
        (outcome,) = await misbehaving.process(misbehaving.stored(b"hang"))
    assert code(outcome) == "processor-timeout"
    (said,) = [entry["text"] for entry in logs if entry["event"] == "a child said"]
    grandchild = int(said.split()[-1])
    await until(lambda: not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == "zombie")


async def test_a_process_that_computes_for_too_long_ends_though_its_parent_sleeps(misbehaving: Bench) -> None:
    (upload,) = misbehaving.stored(b"loop")
    working = asyncio.create_task(misbehaving.process([upload]))
    await until(lambda: any(child.cpu_times().user > 0.5 for child in children()))
    [child] = children()
    sleep_through(child)
    (outcome,) = await working
    assert code(outcome) == "processor-timeout"


@pytest.mark.parametrize(
    ("word", "wanted", "passing"),
    [
        (b"refuse", ("not-wanted", "It is not wanted."), False),
        (b"stumble", ("try-later", "The moon is in the way."), True),
        (b"bug", ("processor-failed", "The processor misbehave failed: ZeroDivisionError: division by zero"), True),
    ],
)
async def test_what_a_processor_raises_says_whether_to_try_again(
    misbehaving: Bench, word: bytes, wanted: tuple[str, str], *, passing: bool
) -> None:
    outcome, other = await misbehaving.process(misbehaving.stored(word, b"nothing"))
    assert outcome.error
    assert (outcome.error.code, outcome.error.detail) == wanted
    assert outcome.passing is passing
    assert outcome.found
    assert outcome.found.detected_type == "text/plain", "what was found before it is kept"
    assert other.error is None


@pytest.mark.parametrize(
    "word", ["shout", "nul", "surrogate", "nan", "object", "much", "flood", "wide", "type", "picture"]
)
async def test_an_answer_that_cannot_be_kept_fails_its_file_alone(misbehaving: Bench, word: str) -> None:
    outcome, other = await misbehaving.process(misbehaving.stored(word.encode(), b"nothing"))
    assert code(outcome) == "processor-failed"
    assert other.error is None


async def test_a_long_sentence_is_cut_and_cleaned(misbehaving: Bench) -> None:
    (outcome,) = await misbehaving.process(misbehaving.stored(b"long"))
    assert outcome.error
    assert outcome.error.code == "too-long"
    assert len(outcome.error.detail) <= 500
    assert "\0" not in outcome.error.detail
    outcome.error.detail.encode()


async def test_what_is_printed_goes_to_the_log_within_bounds_and_never_into_an_answer(misbehaving: Bench) -> None:
    with capture_logs() as logs:
        outcomes = await misbehaving.process(misbehaving.stored(b"print", b"read_stdin", b"nothing"))
    assert [code(one) for one in outcomes] == [None] * 3
    assert outcomes[1].found
    assert outcomes[1].found.metadata["misbehave"] == {"read": ""}
    said = [entry["text"] for entry in logs if entry["event"] == "a child said"]
    assert "printed in Python" in said[0]
    assert sum(map(len, said)) < 20_000


async def test_processors_run_in_order_and_see_what_was_found_before(tmp_path: Path) -> None:
    chosen, gone = new_id(), new_id()
    async with bench(
        tmp_path / "objects", processors=("inspect", "echo"), chosen={chosen: ("image", "echo", "inspect")}
    ) as made:
        uploads = made.stored(b"plain words, nothing else", b"plain words, and more", filename="a/b.txt")
        plain, other = await made.process([uploads[0]._replace(batch_id=None), uploads[1]._replace(batch_id=gone)])
        picture, png_bytes = made.stored(png(31, 17), batch_id=chosen, content_type="text/evil"), png(31, 17)
        (looked_at,) = await made.process(picture)
    assert plain.found
    assert plain.found.detected_type == "application/x-echo"
    seen = dict(plain.found.metadata["echo"])  # type: ignore[call-overload]
    assert seen.pop("pid") != os.getpid()
    assert seen == {
        "type": "text/plain",
        "declared": "text/plain",
        "filename": "a/b.txt",
        "size": 25,
        "attempt": 1,
        "earlier": [],
        "tail": "lse",
        "whole": 25,
    }
    assert other.found, "an upload whose batch chose nothing runs by the setting"
    assert other.found.metadata.keys() == {"echo"}
    assert looked_at.found
    assert looked_at.found.detected_type == "image/png", "inspect came last"
    assert (looked_at.found.width, looked_at.found.height) == (31, 17)
    echoed: dict[str, object] = looked_at.found.metadata["echo"]  # type: ignore[assignment]
    assert (echoed["earlier"], echoed["whole"]) == (["image"], len(png_bytes))
    assert (echoed["declared"], echoed["type"]) == ("text/evil", None)


async def test_a_processor_that_is_gone_is_waited_for(tmp_path: Path) -> None:
    chosen = new_id()
    async with bench(tmp_path / "objects", chosen={chosen: ("inspect", "uninstalled")}) as made:
        (outcome,) = await made.process(made.stored(b"words", batch_id=chosen))
    assert (code(outcome), outcome.passing) == ("unknown-processor", True)


async def test_bytes_out_of_reach_are_no_fault_of_the_file(misbehaving: Bench) -> None:
    lost, fine = misbehaving.stored(b"nothing", b"nothing")
    away = lost._replace(object_id=new_id())
    behind = lost._replace(object_offset=1 << 20)
    outcomes = await misbehaving.process([away, fine])
    outcomes += await misbehaving.process([behind])
    assert [one.blameless for one in outcomes] == [True, False, True]
    assert [one.error for one in outcomes] == [None] * 3


async def test_one_slow_file_does_not_hold_up_the_others(misbehaving: Bench) -> None:
    await misbehaving.process(misbehaving.stored(*[b"nothing"] * 50))
    uploads = misbehaving.stored(b"loop", *[b"nothing"] * 200)
    order = []
    async with aclosing(misbehaving.sandbox.process(uploads)) as outcomes:
        async for outcome in outcomes:
            order.append(outcome.upload.id)
            if len(order) == 180:
                break
    assert uploads[0].id not in order


async def test_several_jobs_share_the_children(misbehaving: Bench) -> None:
    slow = misbehaving.stored(*[b"sleep"] * 40)
    quick = misbehaving.stored(*[b"sleep"] * 4)
    long = asyncio.create_task(misbehaving.process(slow))
    await until(lambda: len(children()) == 2)
    began = time.monotonic()
    await misbehaving.process(quick)
    assert time.monotonic() - began < 4
    assert not long.done()
    long.cancel()
    await asyncio.wait([long])


async def test_closing_early_ends_what_still_works_on_the_files(misbehaving: Bench) -> None:
    slow, others = misbehaving.stored(*[b"loop"] * 3), misbehaving.stored(*[b"sleep"] * 6)
    beside = asyncio.create_task(misbehaving.process(others))
    stopped = asyncio.create_task(misbehaving.process(slow))
    await until(lambda: any(child.cpu_times().user > 0.5 for child in children()))
    began = time.monotonic()
    stopped.cancel()
    await asyncio.wait([stopped])
    assert [code(one) for one in await beside] == [None] * 6, "those who shared a child with them are not blamed"
    assert time.monotonic() - began < SECONDS, "nobody waited for the time limit"


async def test_who_shared_a_child_with_files_that_were_given_up_is_not_blamed(tmp_path: Path) -> None:
    async with bench(tmp_path / "objects", processes=1, processors=("misbehave",)) as made:
        staying = asyncio.create_task(made.process(made.stored(b"sleep")))
        leaving = asyncio.create_task(made.process(made.stored(b"nothing")))
        seats = made.sandbox._seats  # noqa: SLF001 - no other way to know that the child has both
        await until(lambda: any(len(seat.given) == 2 for seat in seats))
        leaving.cancel()
        (outcome,) = await staying
    assert code(outcome) is None


async def test_a_child_killed_while_it_rests_is_replaced_and_nobody_blamed(misbehaving: Bench) -> None:
    await misbehaving.process(misbehaving.stored(*[b"nothing"] * 20))
    for child in children():
        child.kill()
        child.wait()
    began = time.monotonic()
    outcomes = await misbehaving.process(misbehaving.stored(*[b"nothing"] * 20))
    assert [code(one) for one in outcomes] == [None] * 20
    assert time.monotonic() - began < 5


async def test_a_child_killed_at_work_costs_one_file_an_attempt(misbehaving: Bench) -> None:
    working = asyncio.create_task(misbehaving.process(misbehaving.stored(*[b"sleep"] * 8)))
    await until(lambda: len(children()) == 2)
    await asyncio.sleep(0.5)
    children()[0].send_signal(signal.SIGKILL)
    outcomes = await working
    assert [(code(one), one.passing) for one in outcomes if one.error] in ([], [("processor-crashed", True)])
    assert sum(one.error is None for one in outcomes) >= 7


async def test_where_no_child_can_start_everything_is_given_back(tmp_path: Path) -> None:
    async with bench(tmp_path / "objects", processors=("inspect", "absent")) as made:
        with capture_logs() as logs:
            outcomes = await made.process(made.stored(*[b"words"] * 5))
    assert [one.blameless for one in outcomes] == [True] * 5
    assert [one.error for one in outcomes] == [None] * 5
    assert "a child cannot be started" in {entry["event"] for entry in logs}


async def test_children_end_with_their_parent_even_while_they_hang(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.orphanage", str(tmp_path / "objects")), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert parent.stdout
        child = psutil.Process(int(await asyncio.wait_for(parent.stdout.readline(), 30)))
        assert child.is_running()
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


async def test_closing_gives_back_what_waits_and_may_be_done_twice(misbehaving: Bench) -> None:
    working = asyncio.create_task(misbehaving.process(misbehaving.stored(*[b"loop"] * 3)))
    await until(lambda: len(children()) == 2)
    await misbehaving.sandbox.close()
    await misbehaving.sandbox.close()
    assert [one.blameless for one in await working] == [True] * 3
    assert children() == []
    assert [one.blameless for one in await misbehaving.process(misbehaving.stored(b"nothing"))] == [True]


async def test_a_database_out_of_reach_is_said_before_anything_begins(tmp_path: Path) -> None:
    async def out_of_reach(_batch_ids: object) -> dict[object, tuple[str, ...]]:
        raise LookupError("no database")

    async with bench(tmp_path / "objects") as made:
        sandbox = Sandbox(made.sandbox._orders, processes=1, choices=out_of_reach)  # type: ignore[arg-type]  # noqa: SLF001
        with pytest.raises(LookupError):
            await anext(sandbox.process(made.stored(b"words")))
        await sandbox.close()


async def test_closing_at_any_moment_comes_to_an_end(tmp_path: Path) -> None:
    for number in range(12):
        async with bench(tmp_path / "objects", processors=("misbehave",)) as made:
            words = [b"exit", b"nothing"] * 10
            working = asyncio.create_task(made.process(made.stored(*words)))
            await asyncio.sleep(number * 0.05)  # in the start, in the middle of a child's end, in between
            async with asyncio.timeout(20):
                await made.sandbox.close()
                outcomes = await working
            assert {code(one) for one in outcomes if not one.blameless} <= {None, "processor-crashed"}
    assert children() == []


async def test_a_child_that_is_being_ended_is_gone_when_its_sandbox_is_closed(misbehaving: Bench) -> None:
    (upload,) = misbehaving.stored(b"hang")
    working = asyncio.create_task(misbehaving.process([upload]))
    await until(lambda: len(children()) == 1)
    [child] = children()
    (outcome,) = await working  # said before its child is gone
    assert code(outcome) == "processor-timeout"
    await misbehaving.sandbox.close()
    assert not child.is_running()
