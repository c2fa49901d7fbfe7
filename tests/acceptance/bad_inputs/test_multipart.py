"""Bodies of uploads that are not multipart/form-data as they should be."""

from collections.abc import Iterator

import pytest

from tests.support.census import unchanged
from tests.support.server import Boatload
from tests.support.wire import BOUNDARY, File, multipart, problem

MIB = 1 << 20
ONE = multipart(File("a", b"x"))
Body = bytes | Iterator[bytes]


def refused(server: Boatload, body: Body, headers: dict[str, str], status: int, slug: str) -> None:
    """A one-shot of that body is answered so, and changes nothing."""
    with server.client() as client, unchanged(server):
        problem(client.post("/v1/uploads", content=body, headers=headers), status, slug)


@pytest.mark.parametrize("parameter", ["", "; boundary=", '; boundary=""', "; boundary=" + "x" * 71])
def test_multipart_without_with_empty_with_a_boundary_over_70_characters(server: Boatload, parameter: str) -> None:
    refused(server, ONE, {"content-type": f"multipart/form-data{parameter}"}, 400, "malformed-multipart")


@pytest.mark.parametrize(
    "content_type",
    [None, f"multipart/mixed; boundary={BOUNDARY}", "application/json", f"multipart/form-data-x; boundary={BOUNDARY}"],
)
def test_multipart_mixed_and_application_json_at_a_multipart_route(server: Boatload, content_type: str | None) -> None:
    refused(server, ONE, {"content-type": content_type} if content_type else {}, 415, "unsupported-media-type")
