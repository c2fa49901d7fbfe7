"""What the numbers were taken on: a number without its machine says nothing."""

import os
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

SYNC_PROBES: Final = 20
SYNC_PROBE_BYTES: Final = 4096
LIBRARIES: Final = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "python-multipart", "asyncpg")


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and the versions. `sync_seconds` are the probes: append 4 KiB, fdatasync."""

    cpus: int
    cpu_model: str
    memory_bytes: int
    load_average: float
    kernel: str
    file_system: str
    sync_seconds: tuple[float, ...]
    python: str
    postgres: str
    libraries: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield the Markdown list."""
        yield f"- {self.cpus} CPUs ({self.cpu_model}), {self.memory_bytes / 1e9:.0f} GB memory, Linux {self.kernel}"
        yield f"- load average {self.load_average:.2f} when the run began"
        median, worst = statistics.median(self.sync_seconds), max(self.sync_seconds)
        yield (
            f"- {self.file_system}; append of 4 KiB and fdatasync: median {median * 1e3:.2f} ms, "
            f"worst {worst * 1e3:.2f} ms of {len(self.sync_seconds)}"
        )
        yield f"- Python {self.python}, {self.postgres}"
        yield f"- {', '.join(self.libraries)}"


def describe(folder: Path, postgres: str) -> Environment:
    """Look at this machine and at the disk under `folder`, where a probe file is made and removed."""
    return Environment(
        cpus=len(os.sched_getaffinity(0)),
        cpu_model=_cpu_model(),
        memory_bytes=psutil.virtual_memory().total,
        load_average=os.getloadavg()[0],
        kernel=platform.release(),
        file_system=_file_system(folder),
        sync_seconds=_probe_sync(folder),
        python=platform.python_version(),
        postgres=postgres,
        libraries=tuple(f"{name} {version(name)}" for name in LIBRARIES),
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    resolved = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if resolved.is_relative_to(part.mountpoint)]
    if not mounts:
        return "file system unknown"
    mount = max(mounts, key=lambda part: len(part.mountpoint))
    return f"{mount.fstype} ({mount.opts})"


def _probe_sync(folder: Path) -> tuple[float, ...]:
    path = folder / "sync-probe"
    block = os.urandom(SYNC_PROBE_BYTES)
    seconds = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(SYNC_PROBES):
            started = time.perf_counter()
            os.write(descriptor, block)
            os.fdatasync(descriptor)
            seconds.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
        path.unlink()
    return tuple(seconds)
