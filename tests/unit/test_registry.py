"""Which processors there are, and what is said of those that are not."""

from pathlib import Path

import pytest

from app.domain.limits import ImageLimits
from app.processing import registry
from app.processing.children import check
from app.processing.registry import ProcessorsError
from tests.support import plug_ins
from tests.support.services import orders_for

LIMITS = ImageLimits(max_pixels=1000, thumbnail_pixels=16)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    plug_ins.show(tmp_path, monkeypatch)
    return tmp_path


def broken(folder: Path, source: str, **processors: str) -> None:
    module = folder / "source" / "faulty.py"
    module.parent.mkdir()
    module.write_text(source)
    plug_ins.install(folder, module, **processors)


def test_the_built_in_ones_are_always_there_and_plug_ins_are_found(folder: Path) -> None:
    assert not registry.has_plug_ins()
    assert set(registry.available()) == {"inspect", "image"}
    plug_ins.install(folder)
    assert registry.has_plug_ins()
    assert registry.require(("echo", "inspect")) == {"inspect", "image", "misbehave", "echo"}
    for name in registry.available():
        assert callable(registry.make(name, LIMITS).process)
    check(orders_for(folder))


def test_an_unknown_one_is_named_beside_those_there_are() -> None:
    with pytest.raises(ProcessorsError, match=r"^There is no processor 'ocr'\. There are: image, inspect\.$"):
        registry.require(("inspect", "ocr"))


def test_two_of_one_name_are_refused(folder: Path) -> None:
    plug_ins.install(folder, inspect="misbehaving:Echo")
    with pytest.raises(ProcessorsError, match="Two processors are called 'inspect'"):
        registry.available()


def test_a_name_that_is_none_is_refused(folder: Path) -> None:
    plug_ins.install(folder, **{"No Name": "misbehaving:Echo"})
    with pytest.raises(ProcessorsError, match="which is no name for one"):
        registry.available()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import a_package_that_is_not_there", r"'faulty' \(faulty:Faulty\) cannot be loaded: ModuleNotFoundError"),
        ("Faulty = 1", "cannot be loaded: TypeError"),
        ("", "cannot be loaded: AttributeError"),
        ("class Faulty: pass", "has no methods wants and process"),
        ("class Faulty:\n    def __init__(self): raise OSError('no model')", "cannot be loaded: OSError: no model"),
        ("import os\nos.abort()", "killed by signal 6"),
    ],
)
def test_a_broken_one_is_said_so_in_a_sentence(folder: Path, source: str, said: str) -> None:
    broken(folder, source, faulty="faulty:Faulty")
    with pytest.raises(ProcessorsError, match=said):
        check(orders_for(folder))
