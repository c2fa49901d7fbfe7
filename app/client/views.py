"""What a push looks like: bars on a terminal, lines elsewhere, JSON lines for programs."""

import json
import sys
from collections import deque
from time import monotonic
from typing import Final, TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from app.client.files import Failure, Skipped
from app.client.progress import Progress, View

_WINDOW_SECONDS: Final = 5.0
_LINE_SECONDS: Final = 5.0
_BIG_SHOWN: Final = 4
_UNIT: Final = 1000


def choose(*, as_json: bool) -> View:
    """Return the view that fits where our output goes."""
    if as_json:
        return JsonLines(sys.stdout)
    console = Console()
    return BarsView(console) if console.is_interactive else Lines(sys.stdout)


def size_of(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < _UNIT:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _UNIT
    return f"{count:.1f} TB"


def summary(progress: Progress, seconds: float) -> str:
    """Return what a push did, in one sentence."""
    sent, had = progress.sent, progress.had
    rate = ""
    if sent.files and progress.sending_seconds:
        sending = progress.sending_seconds
        rate = f" in {sending:.1f} s, {sent.files / sending:,.0f} files/s, {size_of(sent.bytes / sending)}/s"
    told = [f"{sent.files:,} sent ({size_of(sent.bytes)}{rate})", f"{had.files:,} there already"]
    if progress.skipped:
        told.append(f"{progress.skipped:,} skipped")
    told.append(f"{progress.failures:,} failed")
    return f"{progress.read.files:,} files, {size_of(progress.read.bytes)} in {seconds:.1f} s: {', '.join(told)}."


def outcome(progress: Progress) -> str | None:
    """Return how the batch stands, in one sentence."""
    batch = progress.batch
    if batch is None:
        return None
    return (
        f"Batch {batch['id']} is {batch['status']}: {batch['processed_uploads']:,} of {batch['total_uploads']:,} "
        f"processed, {batch['failed_uploads']:,} failed."
    )


def harmless(text: str) -> str:
    """Return a text without what would drive a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


class Rates:
    """How fast it went in the last seconds."""

    def __init__(self) -> None:
        self._seen: Final[deque[tuple[float, int, int]]] = deque()

    def of(self, progress: Progress) -> str:
        """Return files and bytes a second."""
        now = monotonic()
        self._seen.append((now, progress.sent.files, progress.sent.bytes))
        while now - self._seen[0][0] > _WINDOW_SECONDS:
            self._seen.popleft()
        then, files, sent = self._seen[0]
        passed = now - then
        if not passed:
            return ""
        return (
            f"{(progress.sent.files - files) / passed:,.0f} files/s {size_of((progress.sent.bytes - sent) / passed)}/s"
        )


class Lines:
    """Plain lines: one when it begins, one every few seconds, one for each failure, and how it ended."""

    def __init__(self, out: TextIO) -> None:
        self._out: Final = out
        self._rates: Final = Rates()
        self._told = monotonic()

    def opened(self, batch_id: str, *, again: bool) -> None:
        """Name the batch."""
        self._say(f"{'Going on with batch' if again else 'Batch'} {batch_id}")

    def failed(self, failure: Failure) -> None:
        """Say which file, and why."""
        self._say(f"failed: {harmless(failure.ref)}: {harmless(failure.detail)} ({failure.code})")

    def skipped(self, skipped: Skipped) -> None:
        """Say what."""
        self._say(f"skipped: {harmless(skipped.ref)}: {skipped.why}")

    def moved(self, progress: Progress) -> None:
        """Say how far it is, now and then."""
        rates = self._rates.of(progress)
        if monotonic() - self._told < _LINE_SECONDS:
            return
        self._told = monotonic()
        batch, all_bytes = progress.batch, max(progress.surveyed.bytes, progress.arrived_bytes)
        if batch:
            self._say(f"processing: {batch['processed_uploads']:,} of {batch['total_uploads']:,}")
        else:
            there = f"{progress.sent.files + progress.had.files:,} of {progress.surveyed.files:,} files"
            self._say(f"sending: {there}, {size_of(progress.arrived_bytes)} of {size_of(all_bytes)}, {rates}")

    def interrupted(self) -> None:
        """Say nothing; the command does."""

    def ended(self, progress: Progress, *, code: int, seconds: float, why: str | None) -> None:  # noqa: ARG002 - a view
        """Sum up."""
        if progress.read.files or progress.failures or not progress.batch:
            self._say(summary(progress, seconds))
        told = outcome(progress)
        if told:
            self._say(told)
        if why:
            sys.stderr.write(f"boatload: {harmless(why)}\n")

    def _say(self, line: str) -> None:
        self._out.write(f"{line}\n")
        self._out.flush()


class BarsView(Lines):
    """The same lines above bars: what is hashed, sent and processed, and one for each of a few big files."""

    def __init__(self, console: Console) -> None:
        super().__init__(sys.stdout)
        self._console: Final = console
        columns = (TextColumn("{task.description:<11}", markup=False), BarColumn(30), TextColumn("{task.fields[told]}"))
        self._bars: Final = Bars(*columns, console=console, auto_refresh=False, transient=True)
        self._tasks: Final[dict[str, TaskID]] = {}
        self._bars.start()

    def moved(self, progress: Progress) -> None:
        """Move the bars."""
        total, files = progress.surveyed.bytes, progress.surveyed.files
        done = progress.sent.files + progress.had.files
        if files:
            self._bar("hashing", progress.read.bytes, total, f"{progress.read.files:,} files")
            told = f"{done:,}/{files:,} files  {size_of(progress.arrived_bytes)}/{size_of(total)}  "
            self._bar("sending", progress.arrived_bytes, total, told + self._rates.of(progress))
        if progress.batch:
            processed, all_of_it = progress.batch["processed_uploads"], progress.batch["total_uploads"]
            self._bar("processing", processed, all_of_it, f"{processed:,}/{all_of_it:,} files")
        shown = dict(list(progress.big.items())[:_BIG_SHOWN])
        for ref, (at, size) in shown.items():
            self._bar(f"  {ref[-40:]}", at, size, f"{size_of(at)}/{size_of(size)}")
        names = {f"  {ref[-40:]}" for ref in shown}
        for name in [name for name in self._tasks if name.startswith("  ") and name not in names]:
            self._bars.remove_task(self._tasks.pop(name))
        self._bars.refresh()

    def interrupted(self) -> None:
        """Take the bars away."""
        self._bars.stop()

    def ended(self, progress: Progress, *, code: int, seconds: float, why: str | None) -> None:
        """Take the bars away, and sum up."""
        self._bars.stop()
        super().ended(progress, code=code, seconds=seconds, why=why)

    def _bar(self, name: str, at: int, total: int, told: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(harmless(name), total=total, told=told)
        self._bars.update(self._tasks[name], completed=min(at, total), total=total, told=told)

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class JsonLines:
    """One JSON object a line, each with its `event`; the last one is `done`."""

    def __init__(self, out: TextIO) -> None:
        self._out: Final = out

    def opened(self, batch_id: str, *, again: bool) -> None:
        """Name the batch."""
        self._say("batch", batch_id=batch_id, resumed=again)

    def failed(self, failure: Failure) -> None:
        """Say which file, and why."""
        self._say("failed", **failure._asdict())

    def skipped(self, skipped: Skipped) -> None:
        """Say what."""
        self._say("skipped", **skipped._asdict())

    def moved(self, progress: Progress) -> None:
        """Say nothing; a program can read the batch."""

    def interrupted(self) -> None:
        """Say nothing; the command does."""

    def ended(self, progress: Progress, *, code: int, seconds: float, why: str | None) -> None:
        """Sum up."""
        self._say(
            "done",
            exit_code=code,
            error=why,
            seconds=round(seconds, 3),
            sending_seconds=progress.sending_seconds and round(progress.sending_seconds, 3),
            files=progress.read.files,
            bytes=progress.read.bytes,
            sent_files=progress.sent.files,
            sent_bytes=progress.sent.bytes,
            had_files=progress.had.files,
            had_bytes=progress.had.bytes,
            skipped=progress.skipped,
            failures=progress.failures,
            batch=progress.batch,
        )

    def _say(self, event: str, **more: object) -> None:
        self._out.write(json.dumps({"event": event, **more}) + "\n")
        self._out.flush()
