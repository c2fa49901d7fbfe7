"""Plug-ins as an operator installs them: a module and its metadata in a folder that Python looks into."""

import shutil
from pathlib import Path
from typing import Final

import pytest

MODULE: Final = Path(__file__).with_name("misbehaving.py")


def install(folder: Path, module: Path = MODULE, **processors: str) -> None:
    """Put a module into the folder, with an entry point for each of `processors`, by default those of MODULE."""
    processors = processors or {"misbehave": "misbehaving:Misbehave", "echo": "misbehaving:Echo"}
    shutil.copy(module, folder)
    info = folder / f"{module.stem}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.stem}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in processors.items()]
    (info / "entry_points.txt").write_text("\n".join(["[boatload.processors]", *lines, ""]))


def show(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process, and those that it starts, look into the folder, for as long as the test lasts."""
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
