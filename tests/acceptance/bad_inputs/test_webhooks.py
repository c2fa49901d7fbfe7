"""Webhooks to where none may go. That nothing is connected where a name leads there is in tests/integration."""

import httpx
import pytest

from tests.support.census import unchanged
from tests.support.server import Boatload
from tests.support.wire import problem


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.1/",
        "https://192.168.1.1/",
        "https://[fd00::1]/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://localhost/",
        "https://169.254.0.1/",
        "https://[fe80::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://u:p@example.com/",
        "https://",
        "",
    ],
)
def test_a_webhook_to_a_private_loopback_link_local_metadata_or_non_https_address(
    server: Boatload, client: httpx.Client, url: str
) -> None:
    with unchanged(server):
        problem(client.post("/v1/webhooks", json={"url": url}), 422, "invalid-webhook-url")
        problem(client.post("/v1/batches", json={"webhook_url": url}), 422, "invalid-webhook-url")


@pytest.mark.parametrize(
    "body",
    [{}, {"url": 5}, {"url": "https://a.example/", "events": []}, {"url": "https://a.example/", "events": ["x"]}],
)
def test_a_webhook_that_is_none(server: Boatload, client: httpx.Client, body: dict[str, object]) -> None:
    with unchanged(server):
        problem(client.post("/v1/webhooks", json=body), 422, "invalid-request")
