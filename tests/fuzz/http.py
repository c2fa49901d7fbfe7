"""Try the API by its OpenAPI document against a real server: `python -m tests.fuzz.http [CASES] [SEED]`.

schemathesis makes requests that the document allows and such that it forbids, one by one and in sequences along its
links. Each answer must be one that the document names, and nothing may be read that was deleted.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.credentials import make_key
from tests.support.postgres import Servers
from tests.support.server import ROOT, serving

_CONFIG: Final = Path(__file__).with_name("schemathesis.toml")
_EXAMPLES: Final = 50
_ROUND_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Round:
    """What came of it."""

    cases: int
    """How many requests were made and looked at."""
    faults: str
    """What was wrong with the answers, for people; empty where nothing was."""


def play(url: str, key: str, *, examples: int, how: list[str]) -> Round:
    """Make up to so many requests to each operation, and some sequences of them. `how` is `--seed N` or the like.

    The API key opens all doors; some requests are made again without it, and must be refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(_CONFIG)),
            *("run", str(ROOT / "openapi.json"), "--url", url, "--no-color", *how),
            *("--max-examples", str(examples), "--report-json-path", str(report)),
        ]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"API_KEY": key},
            capture_output=True,
            text=True,
            timeout=_ROUND_SECONDS,
            check=False,
        )
        counts = json.loads(report.read_text())["test_cases"] if report.exists() else {"generated": 0}
    return Round(counts["generated"], done.stdout + done.stderr if done.returncode else "")


def main(cases: int = 20_000, seed: int = int(time.time())) -> int:
    """Play rounds, each with the next seed, until there were so many cases, or a fault."""
    servers, made = Servers(), 0
    try:
        database = servers.get("18").create_migrated()
        key = make_key(database)
        with serving(database_url=database) as server:
            while made < cases:
                played = play(server.url, key, examples=_EXAMPLES, how=["--seed", str(seed)])
                made += played.cases
                sys.stdout.write(f"{played.faults}\n{made} cases, the last with seed {seed}\n")
                sys.stdout.flush()
                if played.faults:
                    return 1
                seed += 1
    finally:
        servers.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
