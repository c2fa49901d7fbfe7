"""What the logs must not show."""

import subprocess
import sys

import pytest

PROGRAM = """
import structlog
from app import logs
logs.configure("info", "{form}")
def broken(secret):
    raise ValueError("It broke.")
try:
    broken("whsec_" + "s3cret")
except ValueError:
    structlog.get_logger("x").exception("it happened")
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_values(form: str) -> None:
    command = [sys.executable, "-c", PROGRAM.replace("{form}", form)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr
    assert "It broke." in said
    assert "whsec_s3cret" not in said
