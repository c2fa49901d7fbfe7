"""The memory of a server: the resident bytes of its process and of all its children, sampled while it works."""

import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

SAMPLE_SECONDS: Final = 0.02
SAMPLES_PER_CHILD_SCAN: Final = 25  # looking for children reads the whole process table


def resident_bytes(pid: int) -> int:
    """Resident bytes of a process and its children now; pages they share count once for each."""
    return _resident(_family(pid))


class MemoryMeter:
    """Measures the peak while the `with` block runs; read `peak_bytes` after it.

    The peak is the greater of the samples and of the kernel's own high-water mark of the process (`VmHWM`), which sees
    what falls between two samples; the mark is reset first, where the kernel allows it, and ignored where it does not.
    """

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory-meter", daemon=True)
        self._mark_is_fresh = False

    def __enter__(self) -> Self:
        """Reset the mark and begin to sample."""
        with suppress(OSError):
            Path(f"/proc/{self._pid}/clear_refs").write_text("5")
            self._mark_is_fresh = True
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the sampling; from here on `peak_bytes` stands."""
        self._done.set()
        self._thread.join()
        if self._mark_is_fresh:
            self.peak_bytes = max(self.peak_bytes, _high_water_bytes(self._pid))

    def _sample(self) -> None:
        family: list[psutil.Process] = []
        count = 0
        while True:
            if count % SAMPLES_PER_CHILD_SCAN == 0:
                family = _family(self._pid)
            count += 1
            self.peak_bytes = max(self.peak_bytes, _resident(family))
            if self._done.wait(SAMPLE_SECONDS):
                return


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(family: list[psutil.Process]) -> int:
    total = 0
    for process in family:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def _high_water_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
