"""The child process that looks into files: `python -m app.processing.child ORDERS PARENT_PID`, or `ORDERS check`.

What parent and child say to each other is in protocol.py.

It ends with its stdin, and with its parent. Nothing of what is in a file can reach more than this process.
"""

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog

from app import logs
from app.domain.errors import StorageUnavailableError
from app.domain.processing_errors import ProcessorFailedError, UnknownProcessorError
from app.processing import registry
from app.processing.confinement import confine, limit_cpu, take_channel
from app.processing.guarding import make_guards
from app.processing.processor import Facts, FinalError, ProcessingError, Processor, Result
from app.processing.protocol import LOST, OUT_OF_MEMORY, READY, Orders, Task, answer_line
from app.processing.stored_file import BUFFER_BYTES, StoredFile
from app.storage.base import ObjectReader, Store
from app.storage.local import LocalStore

log: Final = structlog.get_logger("boatload.child")


class Workbench:
    """Looks into one file after the other. Keeps the object that it read last open."""

    def __init__(self, store: Store, orders: Orders) -> None:
        self._store: Final = store
        self._orders: Final = orders
        self._guards: Final = make_guards(orders.guards, seconds=orders.seconds)
        self._processors: Final[dict[str, Processor]] = dict(self._guards)
        self._open: tuple[UUID, ObjectReader] | None = None

    def load(self) -> None:
        """Make the processors that run where nobody chose. Raises ProcessorsError."""
        for name in self._orders.processors:
            self._processor(name)

    def answer(self, task: Task) -> bytes:
        """Return the answer for a file. Never raises."""
        try:
            raw = StoredFile(self._reader(task.object_id), task.offset, task.facts.size_bytes)
        except StorageUnavailableError:
            return LOST
        try:
            line = self._run(task, raw)
        except MemoryError:
            return OUT_OF_MEMORY
        return LOST if raw.lost else line

    def _run(self, task: Task, raw: StoredFile) -> bytes:
        facts, thumbnail = task.facts, None
        code, detail, passing = None, "", False
        chosen = self._orders.processors if task.processors is None else task.processors
        name = ""
        try:
            with io.BufferedReader(raw, BUFFER_BYTES) as file:
                for name in (*self._guards, *chosen):
                    processor = self._processor(name)
                    if processor.wants(facts):
                        file.seek(0)
                        result = processor.process(facts, file)
                        facts, thumbnail = _added(facts, name, result), result.thumbnail or thumbnail
            return answer_line(facts, thumbnail)
        except MemoryError:
            raise
        except registry.ProcessorsError as error:
            code, detail, passing = UnknownProcessorError.code, str(error), True
        except ProcessingError as error:
            code, detail, passing = error.code, error.detail, not isinstance(error, FinalError)
            facts = _added(facts, name, Result(metadata=error.metadata))
        except Exception as error:  # whatever else a processor raises may pass
            if not raw.lost:
                log.warning("processor failed", processor=name, upload_id=str(facts.upload_id), exc_info=True)
            code, passing = ProcessorFailedError.code, True
            detail = f"The processor {name} failed: {type(error).__name__}: {error}"
        return _failed_line(facts, code, detail, passing=passing)

    def _processor(self, name: str) -> Processor:
        if name not in self._processors:
            self._processors[name] = registry.make(name, self._orders.image)
        return self._processors[name]

    def _reader(self, object_id: UUID) -> ObjectReader:
        if self._open is None or self._open[0] != object_id:
            self.close()
            self._open = object_id, self._store.open(object_id)
        return self._open[1]

    def close(self) -> None:
        """Let go of the object."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


def _added(facts: Facts, name: str, result: Result) -> Facts:
    """Return the facts with what a processor found."""
    return replace(
        facts,
        detected_type=result.detected_type or facts.detected_type,
        width=result.width or facts.width,
        height=result.height or facts.height,
        metadata={**facts.metadata, name: dict(result.metadata)} if result.metadata else facts.metadata,
    )


def _failed_line(facts: Facts, code: str, detail: str, *, passing: bool) -> bytes:
    try:
        return answer_line(facts, None, code=code, detail=detail, passing=passing)
    except (TypeError, ValueError):  # of what was found, something cannot be said
        return answer_line(replace(facts, metadata={}), None, code=code, detail=detail, passing=passing)


def main(orders_json: str, mode: str) -> int:
    """Answer until stdin ends. To `check` is to load all processors there are, and to say what is wrong with them."""
    orders = Orders.from_json(orders_json)
    if mode == "check":
        return _check(orders)
    requests, answers = take_channel()
    logs.configure(orders.log_level, "json")
    confine(orders.memory_bytes, parent=int(mode))
    bench = Workbench(LocalStore(Path(orders.folder)), orders)
    bench.load()
    answers.write(READY)
    answers.flush()
    for line in requests:
        limit_cpu(orders.seconds)
        answer = bench.answer(Task.from_json(line))
        answers.write(answer)
        answers.flush()
        if answer == OUT_OF_MEMORY:
            return 1
    return 0


def _check(orders: Orders) -> int:
    try:
        for name in registry.available():
            registry.make(name, orders.image)
    except registry.ProcessorsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
