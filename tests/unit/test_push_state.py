from pathlib import Path
from uuid import uuid4

import pytest

from app.client.state import State

URL = "http://127.0.0.1:8000"


def test_a_batch_is_remembered_for_its_service_and_paths_alone(tmp_path: Path) -> None:
    batch_id = uuid4()
    State(tmp_path, URL, ["/a", "/b"]).save(batch_id)
    assert State(tmp_path, URL, ["/b", "/a"]).load() == batch_id
    assert State(tmp_path, URL, ["/a"]).load() is None
    assert State(tmp_path, "http://other", ["/a", "/b"]).load() is None
    other = uuid4()
    State(tmp_path, URL, ["/a", "/b"]).save(other)
    assert State(tmp_path, URL, ["/a", "/b"]).load() == other
    assert len(list(tmp_path.rglob("*.json"))) == len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_what_is_done_is_forgotten(tmp_path: Path) -> None:
    state = State(tmp_path, URL, ["/a"])
    state.clear()
    state.save(uuid4())
    state.clear()
    assert state.load() is None
    assert not state.path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"batch_id": 1}', '{"batch_id": "x"}', "{}", "\xff"])
def test_a_state_that_makes_no_sense_is_none(tmp_path: Path, text: str) -> None:
    state = State(tmp_path, URL, ["/a"])
    state.path.parent.mkdir(parents=True)
    state.path.write_text(text, encoding="latin-1")
    assert state.load() is None


def test_names_that_are_not_utf8_have_a_state_too(tmp_path: Path) -> None:
    state = State(tmp_path, URL, ["/\udcff"])
    batch_id = uuid4()
    state.save(batch_id)
    assert state.load() == batch_id
