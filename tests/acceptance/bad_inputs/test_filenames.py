"""What clients call their files. A bad name costs its file, and no other; names of PUT and tus are in their files."""

import asyncio

import httpx
import pytest

from tests.support.census import unchanged
from tests.support.server import Boatload
from tests.support.wire import (
    BOUNDARY,
    CONTENT_TYPE,
    FORM,
    File,
    all_uploads,
    connection,
    finished,
    multipart,
    problem,
    read_answer,
    request_head,
    send,
    verdicts,
)

GOOD = File("good", b"kept")
NAMELESS = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="f"\r\nContent-Type: image/png\r\n\r\nx\r\n'.encode()
NAMED = multipart(File("a", b"x"))


def rejected(server: Boatload, bad: bytes) -> None:
    """Of a body with that part and a good file, the good one is taken, and the other is a failed upload."""
    with server.client() as client, unchanged(server, batches=1, failed=1, completed=1):
        answer = client.post("/v1/uploads", content=bad + multipart(GOOD), headers=FORM)
        assert answer.status_code == 207, answer.text
        first, second = answer.json()["results"]
        assert (first["status"], first["problem"]["type"]) == ("rejected", "/problems/invalid-filename")
        assert (first["upload"]["status"], first["upload"]["received_bytes"]) == ("failed", 0)
        assert first["upload"]["filename"].isprintable()
        assert client.get(second["upload"]["content_url"]).content == GOOD.data
        finished(client, answer.json()["url"])


def part(filename: str | bytes) -> bytes:
    return multipart(File(filename, b"x")).removesuffix(f"--{BOUNDARY}--\r\n".encode())


@pytest.mark.parametrize("bad", [part(""), NAMELESS], ids=["empty", "missing"])
def test_a_file_part_with_empty_or_missing_filename(server: Boatload, bad: bytes) -> None:
    rejected(server, bad)


@pytest.mark.parametrize(
    "filename",
    [
        "nul\0",
        "carriage\rreturn",
        "\r",
        "line\nfeed",
        "tab\t",
        "del\x7f",
        "c1\x85",
        "x" * 256,
        "\u00e4" * 128,
        b"\xff\xfe",
        b"\xc0\xaf",
    ],
)
def test_a_filename_with_nul_cr_lf_control_character_over_255_bytes_or_invalid_utf_8(
    server: Boatload, filename: str | bytes
) -> None:
    rejected(server, part(filename))


async def test_a_filename_with_a_cr_that_is_the_last_byte_for_a_while(server: Boatload) -> None:
    """Only the byte behind a CR tells whether it ends the line."""
    body = part("first") + part("a\rb") + multipart(GOOD)
    cut = body.index(b"\rb") + 1
    with unchanged(server, batches=1, failed=1, completed=2):
        async with connection(server.port) as (reader, writer):
            writer.write(request_head("POST", "/v1/uploads", Content_Type=CONTENT_TYPE, Content_Length=len(body)))
            writer.write(body[:cut])
            await asyncio.sleep(0.2)
            writer.write(body[cut:])
            answer = await asyncio.wait_for(read_answer(reader), 20)
        assert answer.status_code == 207
        assert verdicts(answer.json()["results"]) == ["taken", "rejected", "taken"]


def test_a_filename_with_a_whole_line_end(server: Boatload, client: httpx.Client) -> None:
    """CR and LF end a header line, so that this is no filename with a CR but a part that is not well-formed."""
    with unchanged(server, batches=1, completed=1):
        answer = client.post("/v1/uploads", content=part("first") + part("a\r\nb") + multipart(GOOD), headers=FORM)
        body = problem(answer, 400, "malformed-multipart")
        assert verdicts(body["results"]) == ["taken"]
        assert [upload["filename"] for upload in all_uploads(client, body["url"])] == ["first"]


@pytest.mark.parametrize(
    "filename",
    ["../../etc/passwd", "C:\\x", "\\\\host\\x", "/etc/passwd", "..", ".", "a/../b", "a\\..\\b", "a//b", "a/"],
)
def test_a_filename_that_leads_elsewhere(server: Boatload, filename: str) -> None:
    rejected(server, part(filename))


@pytest.mark.parametrize(
    ("filename", "shown"),
    [
        ("a/b/c.jpg", "filename=\"c.jpg\"; filename*=UTF-8''c.jpg"),
        ("gpj.\N{RIGHT-TO-LEFT OVERRIDE}exe", "filename=\"gpj._exe\"; filename*=UTF-8''gpj.%E2%80%AEexe"),
        ("\N{GRINNING FACE}", "filename=\"_\"; filename*=UTF-8''%F0%9F%98%80"),
        ("e\N{COMBINING ACUTE ACCENT}", "filename=\"e_\"; filename*=UTF-8''e%CC%81"),
        ("<img src=x>%22;", "filename=\"_img src=x__22;\"; filename*=UTF-8''%3Cimg%20src%3Dx%3E%2522%3B"),
    ],
)
def test_a_relative_path_right_to_left_override_emoji_combining_marks(
    server: Boatload, client: httpx.Client, filename: str, shown: str
) -> None:
    with unchanged(server, batches=1, completed=1):
        answer = send(client, "/v1/uploads", File(filename, b"x"))
        assert answer.status_code == 201
        upload = answer.json()["results"][0]["upload"]
        assert upload["filename"] == filename
        assert client.get(upload["content_url"]).headers["content-disposition"] == f"attachment; {shown}"


@pytest.mark.parametrize(
    "parameters", [b'filename="a"; filename="b"', b'filename="a"; FILENAME=b', b"filename*=UTF-8''a"]
)
def test_duplicate_filename_parameters_or_only_an_extended_one(
    server: Boatload, client: httpx.Client, parameters: bytes
) -> None:
    with unchanged(server):
        answer = client.post("/v1/uploads", content=NAMED.replace(b'filename="a"', parameters), headers=FORM)
        problem(answer, 400, "malformed-multipart")


@pytest.mark.parametrize("parameters", [b"filename=\"a\"; filename*=UTF-8''b", b"filename*=UTF-8''b; filename=\"a\""])
def test_filename_and_an_extended_one(server: Boatload, client: httpx.Client, parameters: bytes) -> None:
    with unchanged(server, batches=1, completed=1):
        answer = client.post("/v1/uploads", content=NAMED.replace(b'filename="a"', parameters), headers=FORM)
        assert [result["filename"] for result in answer.json()["results"]] == ["a"]


def test_the_same_name_twice(server: Boatload, client: httpx.Client) -> None:
    with unchanged(server, batches=1, completed=2):
        answer = send(client, "/v1/uploads", File("a", b"one"), File("a", b"two"))
        assert answer.status_code == 201
        uploads = all_uploads(client, answer.json()["url"])
        assert [upload["filename"] for upload in uploads] == ["a", "a"]
        assert [client.get(upload["content_url"]).content for upload in uploads] == [b"one", b"two"]
