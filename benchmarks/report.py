"""The printed result: one Markdown table for each workload, ratios of the service to its peers, and the noise."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from contenders import Contender
from environment import Environment
from workloads import Measurement, Workload


@dataclass(frozen=True, slots=True)
class Row:
    """All rounds of one workload on one contender. `idle_bytes`: its memory after the warm-up, before any round."""

    workload: Workload
    contender: Contender
    idle_bytes: int
    rounds: tuple[Measurement, ...]

    @property
    def seconds(self) -> list[float]:
        """Return the wall time of each round, in order."""
        return [measurement.seconds for measurement in self.rounds]

    @property
    def growth_bytes(self) -> int:
        """Return the highest peak of all rounds over the idle memory."""
        return max(measurement.peak_bytes for measurement in self.rounds) - self.idle_bytes


def render(rows: Sequence[Row], environment: Environment) -> Iterator[str]:
    """Yield the lines of the report; the first contender of each workload is the one compared with the others."""
    yield "# Benchmark"
    yield ""
    yield from environment.lines()
    for workload in dict.fromkeys(row.workload for row in rows):
        yield ""
        yield from _table([row for row in rows if row.workload == workload])


def _table(rows: Sequence[Row]) -> Iterator[str]:
    subject, workload = rows[0], rows[0].workload
    yield f"## {workload.title}"
    yield ""
    yield (
        f"| server | median | least to most of {len(subject.rounds)} | {workload.unit}/s | "
        f"{subject.contender.title} is N times as fast | peak memory growth (idle) | until processed |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for row in rows:
        median = statistics.median(row.seconds)
        cells = (
            row.contender.title,
            f"{median:.3f} s",
            f"{min(row.seconds):.3f} to {max(row.seconds):.3f} s",
            f"{workload.amount / median:,.0f}",
            "" if row is subject else _ratio(subject, row),
            f"{row.growth_bytes / 1e6:+.0f} MB ({row.idle_bytes / 1e6:.0f} MB)",
            _processing(row),
        )
        yield f"| {' | '.join(cells)} |"


def _ratio(subject: Row, peer: Row) -> str:
    """Return the ratio of the medians, and the least and greatest ratio of two neighbours in one round."""
    pairs = [other / own for own, other in zip(subject.seconds, peer.seconds, strict=True)]
    ratio = statistics.median(peer.seconds) / statistics.median(subject.seconds)
    digits = 1 if ratio >= 1 else 2
    return f"{ratio:.{digits}f} x ({min(pairs):.{digits}f} to {max(pairs):.{digits}f})"


def _processing(row: Row) -> str:
    seconds = [one.processing_seconds for one in row.rounds if one.processing_seconds is not None]
    return f"{statistics.median(seconds):.2f} s" if seconds else ""
