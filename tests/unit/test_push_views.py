import io
import json
from uuid import uuid4

import pytest
from rich.console import Console

from app.client.files import Failure, Skipped
from app.client.progress import Progress
from app.client.views import BarsView, JsonLines, Lines, choose, harmless, size_of

BATCH = {"id": str(uuid4()), "status": "completed", "processed_uploads": 3, "total_uploads": 3, "failed_uploads": 1}


def some() -> Progress:
    progress = Progress(sending_seconds=2.0, failures=2, batch=BATCH)
    for size in (1000, 2000, 3_000_000):
        progress.surveyed.add(size)
        progress.read.add(size)
        progress.sent.add(size)
    progress.arrived_bytes = progress.sent.bytes
    progress.big["folder/big"] = (1_000_000, 3_000_000)
    return progress


@pytest.mark.parametrize(("terminal", "view"), [("xterm", BarsView), ("dumb", Lines)])
def test_bars_are_for_terminals_that_can_move_them(monkeypatch: pytest.MonkeyPatch, terminal: str, view: type) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.delenv("TTY_INTERACTIVE", raising=False)
    monkeypatch.setenv("TERM", terminal)
    chosen = choose(as_json=False)
    chosen.interrupted()
    assert type(chosen) is view


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_500_000, "1.5 MB"), (2e9, "2.0 GB"), (5e15, "5000.0 TB")],
)
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert size_of(count) == text


def test_nothing_that_drives_a_terminal_gets_through() -> None:
    assert (
        harmless("a\x1b[2Jb\r\né")
        == "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}é"
    )
    out = io.StringIO()
    Lines(out).failed(Failure("a\x1b]0;x\x07", "code", "why\x1b[31m"))
    assert "\x1b" not in out.getvalue()
    assert "\x07" not in out.getvalue()


def test_lines_say_the_batch_each_failure_and_the_sum(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    view = Lines(out)
    view.opened("the-id", again=True)
    view.failed(Failure("a/b", "unreadable", "Permission denied"))
    view.skipped(Skipped("a/c", "symbolic link"))
    view.moved(some())
    view.ended(some(), code=3, seconds=4, why="nobody answers")
    assert out.getvalue().splitlines() == [
        "Going on with batch the-id",
        "failed: a/b: Permission denied (unreadable)",
        "skipped: a/c: symbolic link",
        "3 files, 3.0 MB in 4.0 s: 3 sent (3.0 MB in 2.0 s, 2 files/s, 1.5 MB/s), 0 there already, 2 failed.",
        f"Batch {BATCH['id']} is completed: 3 of 3 processed, 1 failed.",
    ]
    assert capsys.readouterr().err == "boatload: nobody answers\n"


def test_json_is_one_object_a_line_and_done_is_the_last() -> None:
    out = io.StringIO()
    view = JsonLines(out)
    view.opened("the-id", again=False)
    view.failed(Failure("a", "changed", "d"))
    view.moved(some())
    view.ended(some(), code=1, seconds=4, why=None)
    opened, failed, done = map(json.loads, out.getvalue().splitlines())
    assert opened == {"event": "batch", "batch_id": "the-id", "resumed": False}
    assert failed == {"event": "failed", "ref": "a", "code": "changed", "detail": "d"}
    assert (done["event"], done["exit_code"], done["sent_bytes"], done["batch"]) == ("done", 1, 3_003_000, BATCH)


def test_bars_show_each_step_and_the_big_files_under_way() -> None:
    out = io.StringIO()
    environment = {"TERM": "xterm"}  # whatever this runs in
    console = Console(file=out, force_terminal=True, width=100, color_system=None, _environ=environment)
    view = BarsView(console)
    progress = some()
    view.moved(progress)
    progress.big.clear()
    shown = out.getvalue()
    view.moved(progress)
    view.failed(Failure("[red]a", "changed", "d"))
    view.ended(progress, code=0, seconds=4, why=None)
    for text in ("hashing", "sending", "processing", "folder/big", "3/3 files", "1.0 MB/3.0 MB"):
        assert text in shown
    assert "folder/big" not in out.getvalue()[len(shown) :].splitlines()[-1]
    assert "failed: [red]a: d (changed)" in out.getvalue()
