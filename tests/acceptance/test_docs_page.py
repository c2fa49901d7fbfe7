"""The documentation page in a real browser: it asks no other host, and what it offers to try works."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page

from tests.support.browser import new_page
from tests.support.server import Boatload
from tests.support.wire import counts, finished


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with new_page() as opened:
        yield opened


async def test_the_page_asks_no_other_host_and_sends_several_files(
    server: Boatload, page: Page, tmp_path: Path
) -> None:
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on("response", lambda answer: complaints.append(f"{answer.status}: {answer.url}") if not answer.ok else None)

    await page.goto(f"{server.url}/docs")
    await page.get_by_text("Boatload").first.wait_for()
    operation = page.locator("#operations-uploads-upload_files")
    await operation.locator("button.opblock-summary-control").click()
    await operation.get_by_role("button", name="Try it out").click()

    files = [tmp_path / name for name in ("first.txt", "second.bin")]
    for number, file in enumerate(files):
        file.write_bytes(file.name.encode() * 1000)
        if await operation.locator("input[type=file]").count() == number:
            await operation.get_by_role("button", name="Add string item").click()
        await operation.locator("input[type=file]").nth(number).set_input_files(file)
    async with page.expect_response("**/v1/uploads") as response:
        await operation.get_by_role("button", name="Execute").click()
    answer = await response.value
    assert answer.status == 201, await answer.text()
    body = await answer.json()
    assert [result["filename"] for result in body["results"]] == [file.name for file in files]
    await operation.locator(".live-responses-table .response-col_status", has_text="201").wait_for()
    if picture := os.environ.get("DOCS_SCREENSHOT"):
        await page.screenshot(path=picture, full_page=True)

    with server.client() as client:
        batch = finished(client, body["url"])
        assert batch["status"] == "completed"
        assert counts(batch) == (2, 2, 2, 0)
        for file, result in zip(files, body["results"], strict=True):
            assert client.get(result["upload"]["content_url"]).content == file.read_bytes()
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {f"127.0.0.1:{server.port}"}
    assert any(url.endswith("/openapi.json") for url in asked)
    assert complaints == []
