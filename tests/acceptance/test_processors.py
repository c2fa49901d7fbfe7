"""Processing by a real server: images of every format, files of ill will, and a processor that somebody installed."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from PIL import Image

from app.processing.image import FORMATS
from tests.support import plug_ins
from tests.support.files import png
from tests.support.images import ORIENTATIONS, fifty_gigapixels, is_upright, picture, stored
from tests.support.postgres import Servers
from tests.support.server import ROOT, Boatload, boatload, serving
from tests.support.wire import File, Json, all_uploads, counts, finished, problem, send

SIZES: Final = ((640, 400), (300, 500), (2000, 1500), (101, 67), (90, 60))


def shown(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image), formats=["WEBP"])


@pytest.fixture
def plug_ins_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    plug_ins.install(tmp_path)
    plug_ins.show(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def misbehaving(postgres_servers: Servers, plug_ins_installed: Path) -> Iterator[Boatload]:
    assert plug_ins_installed
    url = postgres_servers.get("18").create_migrated()
    with serving(
        database_url=url,
        processors="inspect, image, misbehave",
        processor_seconds=2,
        processor_memory_bytes=512 << 20,
    ) as server:
        yield server


def photo(client: httpx.Client) -> Json:
    """An upload of an image, processed."""
    answer = send(client, "/v1/uploads", File("photo.png", stored(picture(600, 400), "PNG", 8))).json()
    finished(client, answer["url"])
    upload: Json = client.get(f"/v1/uploads/{answer['results'][0]['upload']['id']}").json()
    return upload


def test_200_images_of_every_format_and_orientation_stand_upright(client: httpx.Client) -> None:
    kinds = [(form, orientation) for form in FORMATS for orientation in ORIENTATIONS]
    made = []
    for number in range(200):
        form, orientation = kinds[number % len(kinds)]
        size = SIZES[number // len(kinds)]
        made.append((form, size, stored(picture(*size), form, orientation)))
    files = [File(f"{number}.bin", data) for number, (_, _, data) in enumerate(made)]
    batch = finished(client, send(client, "/v1/uploads", *files).json()["url"], seconds=120)
    assert counts(batch) == (200, 200, 200, 0)
    uploads = sorted(all_uploads(client, batch["url"]), key=lambda one: int(one["filename"].split(".")[0]))
    for (form, size, _), upload in zip(made, uploads, strict=True):
        assert (upload["width"], upload["height"]) == size, form
        assert upload["metadata"]["image"]["format"] == form
        answer = client.get(upload["thumbnail_url"])
        assert answer.status_code == 200
        assert max(shown(answer.content).size) == min(512, *[max(size)]), form
        assert is_upright(answer.content), (form, upload["filename"])


def test_a_thumbnail_is_served_as_what_it_is_and_not_twice(client: httpx.Client) -> None:
    upload = photo(client)
    assert upload["thumbnail_url"] == f"/v1/uploads/{upload['id']}/thumbnail"
    answer = client.get(upload["thumbnail_url"])
    assert {
        "content-type": "image/webp",
        "cache-control": "private, no-cache",
        "content-security-policy": "default-src 'none'; sandbox",
        "cross-origin-resource-policy": "same-origin",
        "x-content-type-options": "nosniff",
    }.items() <= dict(answer.headers).items()
    assert int(answer.headers["content-length"]) == len(answer.content)
    again = client.get(upload["thumbnail_url"], headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    other = client.get(photo(client)["thumbnail_url"], headers={"If-None-Match": answer.headers["etag"]})
    assert other.status_code == 200


def test_what_has_no_thumbnail_answers_404(client: httpx.Client) -> None:
    answer = send(client, "/v1/uploads", File("words.txt", b"words")).json()
    finished(client, answer["url"])
    upload = client.get(f"/v1/uploads/{answer['results'][0]['upload']['id']}").json()
    assert upload["thumbnail_url"] is None
    assert problem(client.get(f"/v1/uploads/{upload['id']}/thumbnail"), 404, "no-thumbnail")
    unknown = client.get("/v1/uploads/01900000-0000-7000-8000-000000000000/thumbnail")
    assert problem(unknown, 404, "not-found")
    gone = photo(client)
    client.delete(f"/v1/uploads/{gone['id']}").raise_for_status()
    assert problem(client.get(gone["thumbnail_url"]), 404, "not-found")


def test_each_bad_file_fails_for_its_own_reason_and_the_rest_completes(misbehaving: Boatload) -> None:
    bad = {
        "crash": (b"crash", "processor-crashed"),
        "loop": (b"loop", "processor-timeout"),
        "eat": (b"eat", "processor-out-of-memory"),
        "huge": (fifty_gigapixels(), "image-too-large"),
        "cut": (stored(picture(300, 200), "JPEG")[:900], "image-unreadable"),
        "own": (b"refuse", "not-wanted"),
    }
    files = [File("good", b"words %d" % number) for number in range(994)]
    for number, (name, (data, _)) in enumerate(bad.items()):
        files.insert(5 + 150 * number, File(name, data))
    with misbehaving.client() as client:
        batch = finished(client, send(client, "/v1/uploads", *files).json()["url"], seconds=120)
        assert counts(batch) == (1000, 1000, 994, 6)
        failed = {one["filename"]: one["error"] for one in all_uploads(client, batch["url"]) if one["error"]}
        assert {name: error["type"] for name, error in failed.items()} == {
            name: f"/problems/{code}" for name, (_, code) in bad.items()
        }
        assert {error["status"] for error in failed.values()} == {422}
        assert failed["own"]["detail"] == "It is not wanted."
        assert client.get("/readyz").status_code == 200


def test_a_batch_chooses_its_processors(misbehaving: Boatload) -> None:
    with misbehaving.client() as client:
        batch = client.post("/v1/batches", json={"processors": ["echo"], "expected_uploads": 1}).json()
        send(client, f"{batch['url']}/uploads", File("a.png", png(31, 17), "text/x"))
        assert finished(client, batch["url"])["status"] == "completed"
        [upload] = all_uploads(client, batch["url"])
        assert (upload["detected_type"], upload["width"]) == ("application/x-echo", None)
        assert upload["metadata"]["echo"]["declared"] == "text/x"


@pytest.mark.parametrize(
    ("processors", "kind"),
    [
        (["inspect", "ocr"], "unknown-processor"),
        (["inspect", "inspect"], "invalid-request"),
        ("inspect", "invalid-request"),
        ([1], "invalid-request"),
        (["\0"], "unknown-processor"),
    ],
)
def test_a_batch_cannot_choose_what_there_is_not(client: httpx.Client, processors: object, kind: str) -> None:
    answer = client.post("/v1/batches", json={"processors": processors})
    problem(answer, 422, kind)
    if kind == "unknown-processor":
        assert answer.json()["processors"] == ["image", "inspect"]


@pytest.mark.parametrize("processors", ["inspect,ocr", "inspect,inspect", ","])
def test_a_server_does_not_start_with_processors_that_there_are_not(tmp_path: Path, processors: str) -> None:
    refused = boatload("serve", data_dir=tmp_path / "data", port=0, processors=processors)
    assert refused.returncode == 1
    assert "processor" in refused.stderr.lower()
    assert "Traceback" not in refused.stderr


def test_a_server_does_not_start_with_a_broken_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "source" / "faulty.py"
    module.parent.mkdir()
    module.write_text("import a_package_that_is_not_there\n")
    plug_ins.install(tmp_path, module, faulty="faulty:Faulty")
    plug_ins.show(tmp_path, monkeypatch)
    refused = boatload("serve", data_dir=tmp_path / "data", port=0)
    assert refused.returncode == 1
    assert "The processor 'faulty' (faulty:Faulty) cannot be loaded" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_example_can_be_copied_installed_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_servers: Servers
) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(ROOT / "docs" / "example-processor", source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [*pip, "--disable-pip-version-check", "--target", str(installed), str(source)]
    subprocess.run(command, check=True, timeout=120, env={**os.environ, "PIP_NO_CACHE_DIR": "1"})
    plug_ins.show(installed, monkeypatch)
    with (
        serving(database_url=postgres_servers.get("18").create_migrated(), processors="inspect,words") as server,
        server.client() as client,
    ):
        files = [File("poem.txt", b"one two\nthree\n\nfour five six"), File("a.png", png(31, 17))]
        answer = send(client, "/v1/uploads", *files).json()
        assert counts(finished(client, answer["url"])) == (2, 2, 2, 0)
        poem, image = all_uploads(client, answer["url"])
        assert poem["metadata"] == {"words": {"lines": 4, "words": 6}}
        assert image["metadata"] == {}
