"""The header fields of tus, as values; what the protocol's requests make of them is in the acceptance suite."""

from contextlib import suppress
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.api.tus_headers import (
    DIGEST_BYTES,
    read_checksum,
    read_concat,
    read_deferred,
    read_length,
    read_metadata,
    read_offset,
)
from app.domain.errors import BoatloadError, FileTooLargeError, InvalidHeaderError, NotFoundError
from tests.support.tus import checksum, encoded, metadata
from tests.support.values import UNKNOWN

PATH = "/v1/tus"


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.encode(), value.encode("latin-1")) for name, value in pairs])


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), (str(2**63 - 1), 2**63 - 1), (" 5 ", 5)])
def test_an_offset_is_a_number_of_bytes(text: str, number: int) -> None:
    assert read_offset(headers(("upload-offset", text))) == number


@pytest.mark.parametrize("text", ["", "-1", "1.5", "\xb2", "1_000", str(2**63), "9" * 5000])
def test_an_offset_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidHeaderError):
        read_offset(headers(("upload-offset", text)))


def test_a_length_has_a_limit_and_may_be_missing() -> None:
    assert read_length(headers(), max_bytes=10) is None
    assert read_length(headers(("upload-length", "10")), max_bytes=10) == 10
    with pytest.raises(FileTooLargeError):
        read_length(headers(("upload-length", "11")), max_bytes=10)


@pytest.mark.parametrize("name", ["upload-offset", "upload-length", "upload-defer-length", "upload-checksum"])
def test_a_field_that_comes_twice_is_refused(name: str) -> None:
    twice = headers((name, "1"), (name, "1"))
    read = {
        "upload-offset": read_offset,
        "upload-length": lambda given: read_length(given, max_bytes=1),
        "upload-defer-length": read_deferred,
        "upload-checksum": read_checksum,
    }
    with pytest.raises(InvalidHeaderError):
        read[name](twice)


@pytest.mark.parametrize("algorithm", DIGEST_BYTES)
def test_a_checksum_names_its_algorithm(algorithm: str) -> None:
    found = read_checksum(headers(("upload-checksum", checksum(algorithm, b"hello"))))
    assert found is not None
    assert found.algorithm == algorithm
    assert len(found.digest) == DIGEST_BYTES[algorithm]
    assert read_checksum(headers()) is None


def test_concat_names_parts_by_where_they_are() -> None:
    first, second = uuid4(), uuid4()
    value = f"final;{PATH}/{first}  https://a.example/prefix{PATH}/{second}?x#y"
    found = read_concat(headers(("upload-concat", value)), path=PATH)
    assert found is not None
    assert found.parts == (first, second)
    partial = read_concat(headers(("upload-concat", "partial")), path=PATH)
    assert partial is not None
    assert partial.parts is None
    assert read_concat(headers(), path=PATH) is None


@pytest.mark.parametrize("url", [f"{PATH}/../tus/{UNKNOWN}", f"{PATH}/x", UNKNOWN, f"/v1/uploads/{UNKNOWN}", PATH])
def test_concat_of_what_is_no_upload_is_not_found(url: str) -> None:
    with pytest.raises(NotFoundError):
        read_concat(headers(("upload-concat", f"final;{url}")), path=PATH)


def test_concat_has_a_limit() -> None:
    many = " ".join(f"{PATH}/{uuid4()}" for _ in range(1001))
    with pytest.raises(InvalidHeaderError):
        read_concat(headers(("upload-concat", f"final;{many}")), path=PATH)


def test_metadata_is_what_we_understand_of_it() -> None:
    batch_id = uuid4()
    raw = metadata(batch_id=str(batch_id), ref="r", filename="a.txt", filetype="text/plain", other="x")
    found = read_metadata(headers(("upload-metadata", raw)))
    assert found.raw == raw
    assert (found.batch_id, found.ref, found.filename, found.content_type) == (batch_id, "r", b"a.txt", "text/plain")


def test_metadata_in_several_fields_is_one() -> None:
    found = read_metadata(headers(("upload-metadata", metadata(ref="r")), ("upload-metadata", metadata(name="n"))))
    assert (found.ref, found.filename) == ("r", b"n")


@pytest.mark.parametrize("nothing", ["", "null", "undefined"])
def test_what_a_script_makes_of_nothing_is_nothing(nothing: str) -> None:
    raw = metadata(batch_id=nothing, ref=nothing, relativePath=nothing, filetype=nothing, name="n")
    found = read_metadata(headers(("upload-metadata", raw)))
    assert (found.batch_id, found.ref, found.filename, found.content_type) == (None, None, b"n", None)


@given(st.dictionaries(st.from_regex(r"[!-+\--~]+", fullmatch=True), st.binary(max_size=40), max_size=5))
def test_any_metadata_is_read_or_refused(values: dict[str, bytes]) -> None:
    raw = ",".join(f"{key} {encoded(value)}" for key, value in values.items())
    try:
        assert read_metadata(headers(("upload-metadata", raw))).raw == raw.strip()
    except BoatloadError:
        assert any(b"\r" in value or b"\n" in value or b"\0" in value for value in values.values()) or (
            {"batch_id", "ref", "relativePath", "filetype", "type"} & values.keys()
        )


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    given_ = headers(("upload-metadata", text), ("upload-concat", text), ("upload-checksum", text))
    for read in (read_metadata, read_checksum, lambda fields: read_concat(fields, path=PATH)):
        with suppress(InvalidHeaderError, NotFoundError):
            read(given_)


def test_ids_are_uuids() -> None:
    found = read_metadata(headers(("upload-metadata", metadata(batch_id="00000000-0000-8000-8000-000000000001"))))
    assert found.batch_id == UUID("00000000-0000-8000-8000-000000000001")
