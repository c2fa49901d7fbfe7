"""curl speaks tus when it is told to."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.missing import lacking
from tests.support.server import Boatload
from tests.support.tus import Tus


def curl(*arguments: str) -> str:
    if shutil.which("curl") is None:
        lacking("there is no curl here")
    done = subprocess.run(["curl", "-sS", "--max-time", "60", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_a_piece_sent_by_curl_is_kept(server: Boatload, tus: Tus, tmp_path: Path, *, chunked: bool) -> None:
    data = os.urandom(5_000_000)
    url = tus.create(len(data))
    for start, end in ((0, 2_000_000), (2_000_000, len(data))):
        piece = tmp_path / "piece"
        piece.write_bytes(data[start:end])
        said = curl(
            *("-X", "PATCH", "-T", str(piece), "-D", "-", "-o", os.devnull, server.url + url),
            *("-H", "Tus-Resumable: 1.0.0", "-H", "Content-Type: application/offset+octet-stream"),
            *("-H", f"Upload-Offset: {start}"),
            *(("-H", "Transfer-Encoding: chunked") if chunked else ()),
        )
        lines = said.lower().splitlines()
        assert any(line.startswith("http/1.1 204") for line in lines), said
        assert f"upload-offset: {end}" in lines, said
    assert tus.content(url) == data


def test_a_refusal_is_heard_before_the_body_is_sent(server: Boatload, tus: Tus, tmp_path: Path) -> None:
    piece = tmp_path / "piece"
    piece.write_bytes(os.urandom(20_000_000))
    url = tus.create(5)
    said = curl(
        *("-X", "PATCH", "-T", str(piece), "-o", os.devnull, "-w", "%{http_code} %{size_upload}", server.url + url),
        *("-H", "Tus-Resumable: 1.0.0", "-H", "Content-Type: application/offset+octet-stream"),
        *("-H", "Upload-Offset: 0"),
    )
    assert said == "413 0"
