"""How much JSON may hold: what it costs grows with its values, not with its bytes."""

import json

import pytest

from app.api.body import MAX_COMMAS, has_many_values
from app.api.schemas import Manifest
from app.domain.limits import MAX_MANIFEST_ENTRIES

NAME = 'a,"b",\\,c'


def test_the_longest_manifest_passes_whatever_its_names_are() -> None:
    entry = {"filename": NAME, "size_bytes": 1, "sha256": "a" * 64, "content_type": "text/plain"}
    entries = [{"ref": f"{NAME}{number}"} | entry for number in range(MAX_MANIFEST_ENTRIES)]
    body = json.dumps({"entries": entries, "seal": True}).encode()
    assert body.count(b",") > MAX_COMMAS
    assert not has_many_values(body)
    assert len(Manifest.model_validate_json(body).entries) == MAX_MANIFEST_ENTRIES


@pytest.mark.parametrize("value", [b"0", b'""', b'"a,b"', b"{}", b'{"a":0}', b'"\\""'])
def test_more_values_than_any_body_needs_are_too_many(value: bytes) -> None:
    assert not has_many_values(b"[" + b",".join([value] * (MAX_COMMAS + 1)) + b"]")
    assert has_many_values(b"[" + b",".join([value] * (MAX_COMMAS + 2)) + b"]")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("repeated", [b'"', b'\\"', b'"\\', b'""', b"\\", b',"', b'","', b'"\\"'])
def test_what_is_no_json_takes_no_longer(repeated: bytes) -> None:
    for start in (b"", b'"', b'{"entries":["'):
        has_many_values(start + repeated * ((16 << 20) // len(repeated)))
