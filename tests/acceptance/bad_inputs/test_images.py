"""Files that are not what they say, or that harm who looks into them: stored, and failed or not, each for itself."""

from typing import Final

import httpx
import pytest

from tests.support.bad_inputs import opened
from tests.support.census import unchanged
from tests.support.files import png
from tests.support.images import fifty_gigapixels, picture, stored
from tests.support.server import Boatload
from tests.support.wire import File, all_uploads, counts, finished, send

JPEG: Final = stored(picture(300, 200), "JPEG")
BAD: Final = {
    "a decompression bomb": (png(1001, 1000), "image-too-large"),
    "a 50-gigapixel PNG": (fifty_gigapixels(), "image-too-large"),
    "an image that is cut": (JPEG[:900], "image-unreadable"),
    "what kills its decoder": (b"crash", "processor-crashed"),
}


def test_a_decompression_bomb_a_50_gigapixel_png_or_what_kills_its_decoder(
    server: Boatload, client: httpx.Client
) -> None:
    """Each is stored and fails for its own reason, can be had back, and the rest of the batch goes on."""
    with unchanged(server, batches=1, completed=2, failed=len(BAD)):
        url = opened(client, processors=["inspect", "image", "misbehave"])
        files = [File(name, data) for name, (data, _) in BAD.items()]
        answer = send(client, f"{url}/uploads", File("good", JPEG), *files, File("good", b"words"))
        assert answer.status_code == 201
        client.post(f"{url}/seal")
        assert counts(finished(client, url)) == (2 + len(BAD), 2 + len(BAD), 2, len(BAD))
        uploads = all_uploads(client, url)
        assert {one["filename"]: one["error"]["type"] for one in uploads if one["error"]} == {
            name: f"/problems/{code}" for name, (_, code) in BAD.items()
        }
        for upload in uploads[1:-1]:
            assert client.get(upload["content_url"]).content == BAD[upload["filename"]][0]


@pytest.mark.parametrize("declared", ["text/plain", "application/pdf", "image/jpeg"])
def test_a_declared_type_that_the_content_contradicts(server: Boatload, client: httpx.Client, declared: str) -> None:
    with unchanged(server, batches=1, completed=1):
        answer = send(client, "/v1/uploads", File("a", png(31, 17), declared))
        assert answer.status_code == 201
        finished(client, answer.json()["url"])
        (upload,) = all_uploads(client, answer.json()["url"])
        assert (upload["content_type"], upload["detected_type"]) == (declared, "image/png")
