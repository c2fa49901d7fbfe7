"""Upload-Expires (tus 1.0.0, "Expiration"): until when bytes are taken, and that they are not after it."""

import re
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from tests.support.tus import Tus, metadata, refused

IMF_FIXDATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT")


def test_every_answer_of_an_unfinished_upload_says_when_it_expires(tus: Tus) -> None:
    batch = tus.open_batch(expires_in_seconds=3600)
    created = tus.post(upload_length=10, upload_metadata=metadata(batch_id=batch["id"]))
    url = created.headers["location"]
    for answer in (created, tus.head(url), tus.patch(url, 0, b"hello")):
        said = answer.headers["upload-expires"]
        assert IMF_FIXDATE.fullmatch(said)
        assert parsedate_to_datetime(said) == datetime.fromisoformat(batch["expires_at"]).replace(microsecond=0)


def test_an_upload_without_a_batch_or_a_whole_expires_too(tus: Tus) -> None:
    for headers in ({}, {"upload_concat": "partial"}):
        answer = tus.post(upload_length=10, **headers)
        assert parsedate_to_datetime(answer.headers["upload-expires"]) > datetime.now(UTC) + timedelta(hours=1)


def test_an_expired_upload_is_gone(tus: Tus) -> None:
    batch = tus.open_batch(expires_in_seconds=1)
    url = tus.create(10, batch=batch["id"])
    deadline = time.monotonic() + 20
    while (head := tus.head(url)).status_code == httpx.codes.OK and time.monotonic() < deadline:
        time.sleep(0.05)
    assert head.status_code in {404, 410}
    assert "upload-offset" not in head.headers
    answer = tus.patch(url, 0, b"hello")
    assert answer.status_code in {404, 410}
    if answer.status_code == httpx.codes.GONE:
        assert refused(answer, 410, "upload-gone")
