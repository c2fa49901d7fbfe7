"""tus-js-client and Uppy in a real browser, on a page of another origin."""

from playwright.async_api import Page

from tests.support.server import Boatload
from tests.support.tus import ENDPOINT, Tus, states
from tests.support.wire import Json, all_uploads, finished

SIZE = 6_000_000
CHUNK = 500_000

START = """({endpoint, size, chunk, stopAt}) => new Promise((resolve, reject) => {
    const file = fileOf('long.txt', 'a line of many', size)
    const requests = []
    const upload = new tus.Upload(file, {
        endpoint, chunkSize: chunk, retryDelays: null, metadata: {filename: file.name, filetype: file.type},
        // However late the page is reloaded, it does not come to its end before.
        onBeforeRequest: () => stopAt && requests.length > stopAt / chunk + 2 ? new Promise(() => {}) : undefined,
        onAfterResponse: (request, response) => requests.push(`${request.getMethod()} ${response.getStatus()}`),
        onChunkComplete: (_size, accepted) => {
            if (stopAt && accepted >= stopAt) resolve({url: upload.url, requests})
        },
        onSuccess: () => resolve({url: upload.url, requests}),
        onError: reject,
    })
    upload.findPreviousUploads().then((previous) => {
        if (previous.length) upload.resumeFromPreviousUpload(previous[0])
        upload.start()
    })
})"""

UPPY_TUS = """({endpoint, batch, chunk, pause, parallel}) => new Promise((resolve, reject) => {
    const uppy = new Uppy({meta: {batch_id: batch}})
    uppy.use(UppyTus, {endpoint, chunkSize: chunk, retryDelays: [0, 10, 50], parallelUploads: parallel})
    const file = (name, path, size) => ({
        name, type: 'text/plain', data: fileOf(name, `this is ${name}`, size), meta: {relativePath: path, ref: name},
    })
    uppy.addFile(file('a.txt', null, 1_200_000))
    uppy.addFile(file('b.txt', 'folder/b.txt', 10))
    uppy.addFile(file('c.txt', '/d/c.txt', 900_000))
    let paused = !pause
    uppy.on('upload-progress', (_file, progress) => {
        if (paused || !progress.bytesUploaded) return
        paused = true
        uppy.pauseAll()
        setTimeout(() => uppy.resumeAll(), 200)
    })
    uppy.upload().then(({successful, failed}) => resolve({
        paused, urls: successful.map((one) => one.uploadURL), failed: failed.map((one) => one.error),
    }), reject)
})"""

UPPY_XHR = """({endpoint, bundle, fieldName}) => new Promise((resolve, reject) => {
    const uppy = new Uppy()
    uppy.use(XHRUpload, {endpoint, bundle, ...(fieldName ? {fieldName} : {})})
    for (const number of [1, 2, 3]) {
        const name = `${number}.txt`
        uppy.addFile({name, type: 'text/plain', data: fileOf(name, `this is ${name}`, number * 1000)})
    }
    uppy.upload().then(({successful, failed}) => resolve({
        bodies: successful.map((one) => one.response.body), statuses: successful.map((one) => one.response.status),
        failed: failed.map((one) => one.error),
    }), reject)
})"""


def content_of(line: str, size: int) -> bytes:
    unit = f"{line}\n".encode()
    return (unit * (size // len(unit) + 1))[:size]


async def test_a_reloaded_page_goes_on(page: Page, open_server: Boatload, open_tus: Tus) -> None:
    job = {"endpoint": open_server.url + ENDPOINT, "size": SIZE, "chunk": CHUNK}
    first = await page.evaluate(START, job | {"stopAt": 2 * CHUNK})
    await page.reload()
    offset = open_tus.offset(first["url"])
    assert 2 * CHUNK <= offset < SIZE
    second = await page.evaluate(START, job | {"stopAt": 0})
    assert second["url"] == first["url"]
    assert second["requests"][0] == "HEAD 200"
    assert set(second["requests"][1:]) == {"PATCH 204"}
    assert len(second["requests"]) <= 1 + (SIZE - offset + CHUNK - 1) // CHUNK
    path = first["url"].removeprefix(open_server.url)
    assert open_tus.content(path) == content_of("a line of many", SIZE)
    assert states(finished(open_tus.client, open_tus.batch_of(path)["url"])) == {
        "total": 1,
        "processed": 1,
        "successful": 1,
    }


async def uppy_by_tus(page: Page, server: Boatload, tus: Tus, **job: object) -> Json:
    batch = tus.open_batch()
    endpoint = server.url + ENDPOINT
    done: Json = await page.evaluate(UPPY_TUS, {"endpoint": endpoint, "batch": batch["id"], "chunk": CHUNK, **job})
    assert done["failed"] == []
    assert len(done["urls"]) == 3
    tus.client.post(f"{batch['url']}/seal")
    assert states(finished(tus.client, batch["url"])) == {"total": 3, "processed": 3, "successful": 3}
    found = {one["filename"]: one for one in all_uploads(tus.client, batch["url"])}
    assert set(found) == {"a.txt", "folder/b.txt", "d/c.txt"}
    for filename, size in (("a.txt", 1_200_000), ("folder/b.txt", 10), ("d/c.txt", 900_000)):
        name = filename.rpartition("/")[2]
        assert found[filename]["content_type"] == "text/plain"
        assert found[filename]["ref"] == name
        assert tus.client.get(found[filename]["content_url"]).content == content_of(f"this is {name}", size)
    return done


async def test_uppy_fills_a_batch_by_tus(page: Page, open_server: Boatload, open_tus: Tus) -> None:
    await uppy_by_tus(page, open_server, open_tus, pause=False, parallel=1)


async def test_uppy_goes_on_after_a_pause(page: Page, open_server: Boatload, open_tus: Tus) -> None:
    done = await uppy_by_tus(page, open_server, open_tus, pause=True, parallel=1)
    assert done["paused"]


async def test_uppy_sends_parts_side_by_side(page: Page, open_server: Boatload, open_tus: Tus) -> None:
    await uppy_by_tus(page, open_server, open_tus, pause=False, parallel=2)


async def uppy_by_xhr(page: Page, tus: Tus, endpoint: str, batch: Json, **job: object) -> Json:
    done: Json = await page.evaluate(UPPY_XHR, {"endpoint": endpoint, "fieldName": None, **job})
    assert done["failed"] == []
    assert set(done["statuses"]) == {201}
    tus.client.post(f"{batch['url']}/seal")
    assert states(finished(tus.client, batch["url"])) == {"total": 3, "processed": 3, "successful": 3}
    found = {one["filename"]: one for one in all_uploads(tus.client, batch["url"])}
    for number in (1, 2, 3):
        name = f"{number}.txt"
        assert tus.client.get(found[name]["content_url"]).content == content_of(f"this is {name}", number * 1000)
    return done


async def test_uppy_sends_forms_one_file_each(page: Page, open_server: Boatload, open_tus: Tus) -> None:
    batch = open_tus.open_batch()
    endpoint = f"{open_server.url}{batch['url']}/uploads"
    done = await uppy_by_xhr(page, open_tus, endpoint, batch, bundle=False)
    assert [len(body["results"]) for body in done["bodies"]] == [1, 1, 1]


async def test_uppy_sends_one_form_of_all_files(page: Page, open_server: Boatload, open_tus: Tus) -> None:
    batch = open_tus.open_batch()
    endpoint = f"{open_server.url}{batch['url']}/uploads"
    done = await uppy_by_xhr(page, open_tus, endpoint, batch, bundle=True)
    assert [len(body["results"]) for body in done["bodies"]] == [3, 3, 3]
    assert [result["filename"] for result in done["bodies"][0]["results"]] == ["1.txt", "2.txt", "3.txt"]


async def test_uppy_does_the_whole_job_with_one_form(page: Page, open_server: Boatload, open_tus: Tus) -> None:
    job = {"endpoint": f"{open_server.url}/v1/uploads", "bundle": True, "fieldName": "anything"}
    done = await page.evaluate(UPPY_XHR, job)
    assert (done["failed"], set(done["statuses"])) == ([], {201})
    batch = finished(open_tus.client, done["bodies"][0]["url"])
    assert states(batch) == {"total": 3, "processed": 3, "successful": 3}
