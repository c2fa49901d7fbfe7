"""The documentation page in a real browser: it asks no other host, and what it offers to try works."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import Page

from tests.support.credentials import bearer, make_key
from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.wire import counts, finished


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


async def test_authorize_sends_a_key_and_a_token_of_a_url(postgres_servers: Servers, page: Page) -> None:
    """As `bearer` for every operation, and as `access_token` in the URL for events."""
    database = postgres_servers.get("18").create_migrated()
    key = make_key(database)
    with serving(database_url=database) as server, server.client() as client:
        client.headers.update(bearer(key))
        batch = client.post("/v1/batches", json={}).json()
        token = client.post(f"{batch['url']}/tokens", json={}).json()["token"]
        client.post(f"{batch['url']}/seal")  # it is empty, so its events end at once

        await page.goto(f"{server.url}/docs")
        assert await tried(page, "list_batches") == 401
        await authorize(page, "bearer", key)
        assert await tried(page, "list_batches") == 200
        await page.goto("about:blank")
        await page.goto(f"{server.url}/docs")
        await authorize(page, "batch_token", token)
        assert await tried(page, "follow_batch", batch["id"]) == 200


async def authorize(page: Page, scheme: str, secret: str) -> None:
    await page.locator("button.authorize").first.click()
    form = page.locator(".auth-container", has_text=scheme).first
    await form.locator("input").fill(secret)
    await form.get_by_role("button", name="Apply credentials").click()
    await page.get_by_role("button", name="Close").first.click()


async def tried(page: Page, name: str, batch_id: str = "") -> int:
    """Try an operation out; return what it is answered with."""
    operation = page.locator(f"#operations-batches-{name}")
    execute = operation.get_by_role("button", name="Execute")
    if not await execute.count():
        await operation.locator("button.opblock-summary-control").click()
        await operation.get_by_role("button", name="Try it out").click()
    if batch_id:
        await operation.locator("tr[data-param-name=batch_id] input").fill(batch_id)
    async with page.expect_response("**/v1/batches**") as response:
        await execute.click()
    return (await response.value).status
