"""`boatload push` against a real server: what arrives, what it says, what it exits with."""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.support.postgres import Servers
from tests.support.proxy import Proxy, proxied
from tests.support.pushing import Pusher, ended, tree, wait_for
from tests.support.server import Boatload, serving
from tests.support.wire import Json, all_uploads, counts, finished

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture
def proxy(server: Boatload) -> Iterator[Proxy]:
    with proxied(server.port) as running:
        yield running


@pytest.fixture
def pusher(proxy: Proxy, tmp_path: Path) -> Pusher:
    return Pusher(proxy.url, tmp_path / "state")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "photos"
    path.mkdir()
    return path


def listed(client: httpx.Client, batch: Json) -> dict[str, str]:
    """Digests by name, which is ref and filename."""
    uploads = all_uploads(client, batch["url"])
    assert all(upload["ref"] == upload["filename"] for upload in uploads)
    return {upload["ref"]: upload["sha256"] for upload in uploads}


def digests(contents: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def test_folders_and_files_arrive_once_and_a_second_push_sends_nothing(
    client: httpx.Client, pusher: Pusher, proxy: Proxy, folder: Path, tmp_path: Path
) -> None:
    contents = tree(folder, 1200, most=4096)
    for name, data in {"big.bin": os.urandom(20 * MIB), "empty": b"", "same": contents["photos/00/0.bin"]}.items():
        (folder / name).write_bytes(data)
        contents[f"photos/{name}"] = data
    alone = tmp_path / "é lone.txt"
    alone.write_bytes(b"hello")
    contents["é lone.txt"] = b"hello"
    total = sum(map(len, contents.values()))

    first = pusher.run(folder, alone)
    assert first.code == 0, first
    done = first.done
    assert (done["exit_code"], done["error"], done["failures"], done["skipped"]) == (0, None, 0, 0)
    assert (done["files"], done["bytes"]) == (len(contents), total)
    assert done["sent_files"] + done["had_files"] == len(contents)
    assert done["sent_bytes"] == proxy.file_bytes <= total
    assert done["batch"]["sealed"]
    assert counts(done["batch"]) == (len(contents), len(contents), len(contents), 0)
    assert done["batch"]["received_bytes"] == total
    assert [event["batch_id"] for event in first.of("batch")] == [done["batch"]["id"]]
    assert listed(client, done["batch"]) == digests(contents)
    assert pusher.states == []

    sent = proxy.file_bytes
    again = pusher.run(folder, alone)
    assert again.code == 0
    assert (again.done["sent_files"], again.done["sent_bytes"], again.done["had_files"]) == (0, 0, len(contents))
    assert proxy.file_bytes == sent
    assert again.done["batch"]["id"] != done["batch"]["id"]
    assert listed(client, again.done["batch"]) == digests(contents)


def test_what_cannot_be_sent_is_reported_and_the_rest_arrives(
    client: httpx.Client, pusher: Pusher, folder: Path
) -> None:
    (folder / "good").write_bytes(b"good")
    (folder / "in\nvalid").write_bytes(b"x")
    (folder / "link").symlink_to(folder / "good")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    (folder / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"x")
    pushed = pusher.run(folder)
    assert pushed.code == 1
    assert sorted((lost["code"], lost["ref"][:10]) for lost in pushed.of("failed")) == [
        ("invalid-filename", "photos/in\N{REPLACEMENT CHARACTER}"[:10]),
        ("invalid-filename", "photos/not"),
    ]
    assert all(lost["detail"] for lost in pushed.of("failed"))
    assert sorted(left["ref"] for left in pushed.of("skipped")) == ["photos/link", "photos/loop", "photos/pipe"]
    assert listed(client, pushed.done["batch"]) == digests({"photos/good": b"good"})
    code, out, _ = pusher.text(folder)
    assert code == 1
    assert "failed: photos/in\N{REPLACEMENT CHARACTER}valid: " in out
    assert "skipped: photos/link: symbolic link" in out


@pytest.mark.parametrize("size", [200 * KIB, 4 * MIB], ids=["many to a request", "each for itself"])
def test_a_file_that_changes_is_reported_and_holds_nothing_open(
    client: httpx.Client, pusher: Pusher, proxy: Proxy, folder: Path, size: int
) -> None:
    """Each is changed while the network is away, when it was declared and not sent whole yet."""
    for name in ("same-size", "shrinks", "grows", "gone"):
        (folder / name).write_bytes(os.urandom(size))
    (folder / "stays").write_bytes(b"stays")
    proxy.cut_at = 1
    process = pusher.start("--json", folder)
    try:
        while not proxy.is_cut:
            assert process.poll() is None, process.communicate()
        (folder / "same-size").write_bytes(os.urandom(size))
        os.truncate(folder / "shrinks", size // 4)
        os.truncate(folder / "grows", size + MIB)
        (folder / "gone").unlink()
        proxy.mend()
        pushed = ended(process)
    finally:
        process.kill()
    assert pushed.code == 1, pushed
    assert {lost["ref"].removeprefix("photos/"): lost["code"] for lost in pushed.of("failed")} == {
        "same-size": "digest-mismatch",
        "shrinks": "changed",
        "grows": "changed",
        "gone": "unreadable",
    }
    assert (pushed.done["sent_files"] + pushed.done["had_files"], pushed.done["failures"]) == (1, 4)
    (batch,) = [found for found in client.get("/v1/batches").json()["items"] if found["label"] == "photos"][:1]
    account = finished(client, batch["url"])
    assert account["status"] == "completed"
    assert account["receiving_uploads"] == 0
    assert listed(client, account)["photos/stays"] == digests({"x": b"stays"})["x"]


def test_small_files_go_many_to_a_request_under_any_name(
    client: httpx.Client, pusher: Pusher, proxy: Proxy, folder: Path
) -> None:
    names = [
        '"quoted"',
        'ends in "',
        "back\\slash",
        'both \\"',
        "%22",
        "a;b=c",
        "filename=x",
        " blanks ",
        "é\U0001f4c4",
        "'",
    ]
    contents = {f"photos/{name}": os.urandom(100) for name in names} | tree(folder, 600, seed=9, most=KIB)
    for name in names:
        (folder / name).write_bytes(contents[f"photos/{name}"])
    pushed = pusher.run(folder)
    assert pushed.code == 0, pushed
    assert listed(client, pushed.done["batch"]) == digests(contents)
    assert (proxy.files, proxy.lost_bytes) == (len(contents), 0)
    assert proxy.requests < len(contents) / 10


def test_files_whose_answer_was_lost_are_not_sent_again(
    client: httpx.Client, pusher: Pusher, proxy: Proxy, folder: Path
) -> None:
    contents = tree(folder, 300, seed=7, most=4 * KIB)
    total = proxy.cut_at = sum(map(len, contents.values()))
    process = pusher.start("--json", folder)
    wait_for(lambda: proxy.is_cut, process)
    (batch,) = [found for found in client.get("/v1/batches").json()["items"] if found["label"] == "photos"][:1]
    url = batch["url"]
    wait_for(lambda: client.get(url).json()["receiving_uploads"] <= 1, process)
    proxy.mend()
    pushed = ended(process)
    assert pushed.code == 0, pushed
    assert proxy.lost_bytes > 0
    assert proxy.file_bytes <= total + 4 * KIB  # the last one's end may have been behind the cut
    assert (pushed.done["sent_files"], pushed.done["had_files"]) == (len(contents), 0)
    assert listed(client, pushed.done["batch"]) == digests(contents)


def test_a_batch_that_is_cancelled_meanwhile_ends_the_push(
    client: httpx.Client, pusher: Pusher, proxy: Proxy, folder: Path
) -> None:
    tree(folder, 300, seed=8)
    proxy.cut_at = 1
    process = pusher.start("--json", folder)
    wait_for(lambda: proxy.is_cut, process)
    (batch,) = [found for found in client.get("/v1/batches").json()["items"] if found["label"] == "photos"][:1]
    assert client.post(f"{batch['url']}/cancel").status_code == 200
    proxy.mend()
    pushed = ended(process)
    assert (pushed.code, pushed.done["batch"]["status"]) == (1, "cancelled")


@pytest.mark.parametrize("limit", [{"max_parts": 50}, {"max_request_bytes": 100_000}], ids=["parts", "bytes"])
def test_a_service_that_takes_no_big_requests_gets_each_file_for_itself(
    postgres_servers: Servers, folder: Path, tmp_path: Path, limit: dict[str, int]
) -> None:
    url = postgres_servers.get("18").create_migrated()
    contents = tree(folder, 200, most=4 * KIB)
    with serving(database_url=url, **limit) as server, server.client() as client:
        pushed = Pusher(server.url, tmp_path / "state").run(folder)
        assert pushed.code == 0, pushed
        assert listed(client, pushed.done["batch"]) == digests(contents)


def test_what_the_service_refuses_is_reported_with_its_reason(
    postgres_servers: Servers, folder: Path, tmp_path: Path
) -> None:
    url = postgres_servers.get("18").create_migrated()
    with serving(database_url=url, max_file_bytes=1000) as server, server.client() as client:
        pusher = Pusher(server.url, tmp_path / "state")
        for number in range(30):
            (folder / f"big-{number}").write_bytes(bytes(1001 + number))
            (folder / f"small-{number}").write_bytes(bytes(number + 1))
        pushed = pusher.run(folder)
        assert pushed.code == 1
        assert {(lost["ref"], lost["code"]) for lost in pushed.of("failed")} == {
            (f"photos/big-{number}", "file-too-large") for number in range(30)
        }
        assert len(listed(client, pushed.done["batch"])) == 30
        assert pushed.done["batch"]["status"] == "completed"


def test_a_batch_can_be_named_and_one_that_others_fill_can_be_watched(
    client: httpx.Client, pusher: Pusher, folder: Path
) -> None:
    batch = client.post("/v1/batches", json={"label": "shared"}).json()
    (folder / "a").write_bytes(b"a")
    (folder / "b").write_bytes(b"b")
    client.put(f"{batch['url']}/files/photos/b", content=b"other")
    watching = pusher.start("--json", "--watch", batch["id"])
    pushed = pusher.run("--batch", batch["id"], folder)
    assert pushed.code == 1
    assert [(lost["ref"], lost["code"]) for lost in pushed.of("failed")] == [("photos/b", "ref-conflict")]
    assert pushed.done["batch"]["id"] == batch["id"]
    assert listed(client, batch) == digests({"photos/a": b"a", "photos/b": b"other"})
    out, err = watching.communicate(timeout=30)
    assert watching.returncode == 0, err
    assert '"status": "completed"' in out
    assert pusher.text("--watch", batch["id"])[:1] == (0,)
    code, _, err = pusher.text("--batch", batch["id"], folder / "a")
    assert code == 3
    assert "completed" in err


def test_a_file_that_fails_in_processing_is_reported_with_the_error_of_its_upload(
    client: httpx.Client, pusher: Pusher, folder: Path
) -> None:
    picture = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(picture, "JPEG")
    (folder / "whole.jpg").write_bytes(picture.getvalue())
    (folder / "half.jpg").write_bytes(picture.getvalue()[: len(picture.getvalue()) // 2])
    pushed = pusher.run(folder)
    assert pushed.code == 1
    assert counts(pushed.done["batch"]) == (2, 2, 1, 1)
    (lost,) = pushed.of("failed")
    (upload,) = client.get(f"{pushed.done['batch']['url']}/uploads?status=failed").json()["items"]
    assert lost["ref"] == "photos/half.jpg"
    assert upload["error"]["type"] == f"/problems/{lost['code']}"
    assert upload["error"]["detail"] == lost["detail"]
    assert pusher.states == []
    watched = pusher.run("--watch", pushed.done["batch"]["id"])
    assert (watched.code, watched.of("failed")) == (1, [lost])


def test_a_batch_that_was_cancelled_fails(client: httpx.Client, pusher: Pusher) -> None:
    batch = client.post("/v1/batches").json()
    client.post(f"{batch['url']}/cancel")
    assert pusher.run("--watch", batch["id"]).code == 1


@pytest.mark.parametrize(
    "arguments", [[], ["/no/such/path"], ["--watch", "x"], ["--url", "ftp://x", "/etc/hosts"], ["/", "/etc/hosts"]]
)
def test_wrong_usage_is_2(tmp_path: Path, arguments: list[str]) -> None:
    code, out, err = Pusher("http://127.0.0.1:1", tmp_path).text(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_paths_of_the_same_name_are_refused(tmp_path: Path) -> None:
    for name in ("a/x", "b/x"):
        (tmp_path / name).mkdir(parents=True)
    code, _, err = Pusher("http://127.0.0.1:1", tmp_path).text(tmp_path / "a/x", tmp_path / "b/x")
    assert code == 2
    assert "same names" in err


def test_a_service_that_is_away_is_3_after_some_patience_and_the_token_is_never_said(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "a").write_bytes(b"a")
    pusher = Pusher("http://127.0.0.1:1", tmp_path / "state")
    code, out, err = pusher.text("--patience", 1, folder, token="s3cret")
    assert code == 3
    assert "does not answer" in err
    assert "s3cret" not in out + err
    pushed = pusher.run("--patience", 0.2, folder)
    assert (pushed.code, pushed.done["exit_code"]) == (3, 3)
    assert "does not answer" in pushed.done["error"]
