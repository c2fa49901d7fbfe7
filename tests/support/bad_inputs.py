"""The server of tests/acceptance/bad_inputs, and what those tests say of its batches."""

from typing import Final

import httpx

MIB: Final = 1 << 20
MAX_FILE_BYTES: Final = 3 * MIB
MAX_REQUEST_BYTES: Final = 6 * MIB
MAX_FILES: Final = 100
"""The most parts of a body, and the most files of a batch."""
LIMITS: Final = {
    "max_file_bytes": MAX_FILE_BYTES,
    "max_request_bytes": MAX_REQUEST_BYTES,
    "max_parts": MAX_FILES,
    "max_files_per_batch": MAX_FILES,
    "image_max_pixels": 1_000_000,
    "retry_first_seconds": 0.05,
}


def opened(client: httpx.Client, **new: object) -> str:
    """The URL of a new batch."""
    answer = client.post("/v1/batches", json=new)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]
