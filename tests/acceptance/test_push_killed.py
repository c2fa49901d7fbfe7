"""`boatload push` whose client, server and network are taken away again and again: the same command goes on."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.client.many import REQUEST_FILES
from app.client.pipeline import MANY_SENDERS
from tests.acceptance.test_killed import MISCOUNTED, MISPLACED
from tests.support.postgres import Servers, fetch
from tests.support.proxy import proxied
from tests.support.pushing import Pusher, ended, tree, wait_for
from tests.support.server import Boatload, serving
from tests.support.wire import all_uploads, counts, everything, finished

MIB = 1 << 20
KIB = 1 << 10
FILES = 10_000
MOST = 4 * KIB
KILLS = 4

PLACES = """
SELECT count(*) AS uploads, count(DISTINCT ref) AS refs, count(DISTINCT sha256) AS contents,
    count(DISTINCT (object_id, object_offset)) AS places
FROM uploads
"""


@pytest.fixture
def own_server(postgres_servers: Servers) -> Iterator[Boatload]:
    with serving(database_url=postgres_servers.get("18").create_migrated(), lease_seconds=2) as server:
        yield server


@pytest.mark.timeout(300)
def test_ten_thousand_files_arrive_once_whoever_is_killed(own_server: Boatload, tmp_path: Path) -> None:
    contents = tree(tmp_path / "tree", FILES, most=MOST)
    total = sum(map(len, contents.values()))
    with proxied(own_server.port) as proxy:
        pusher = Pusher(proxy.url, tmp_path / "state")
        client = pusher.start("--json", tmp_path / "tree")
        for number in range(2 * KILLS):
            enough = proxy.files + FILES // (2 * KILLS + 3)
            wait_for(lambda enough=enough: proxy.files >= enough, client)  # type: ignore[misc]
            if number % 2:
                own_server.kill()
                own_server.start()
                proxy.target = own_server.port
            else:
                client.kill()
                client.communicate()
                assert len(pusher.states) == 1
                client = pusher.start("--json", tmp_path / "tree")
        pushed = ended(client)

        assert pushed.code == 0, pushed
        assert pushed.of("batch")[0]["resumed"]
        assert counts(pushed.done["batch"]) == (FILES, FILES, FILES, 0)
        assert proxy.file_bytes <= 1.05 * total + proxy.lost_bytes
        assert proxy.lost_bytes <= 2 * KILLS * MANY_SENDERS * REQUEST_FILES * MOST
        assert proxy.requests <= FILES / 50
        assert pusher.states == []
    with own_server.client() as http:
        (batch,) = everything(http, "/v1/batches?limit=1000")
        uploads = all_uploads(http, batch["url"])
    assert {upload["ref"]: upload["sha256"] for upload in uploads} == {
        name: hashlib.sha256(data).hexdigest() for name, data in contents.items()
    }
    url = str(own_server.settings["database_url"])
    assert [tuple(row) for row in fetch(url, PLACES)] == [(FILES, FILES, FILES, FILES)]
    for wrong in (MISCOUNTED, MISPLACED):
        assert fetch(url, wrong) == []


def test_a_big_file_goes_on_where_the_network_or_the_client_broke_off(own_server: Boatload, tmp_path: Path) -> None:
    data = os.urandom(48 * MIB)
    (tmp_path / "big.bin").write_bytes(data)
    with proxied(own_server.port) as proxy, own_server.client() as http:
        pusher = Pusher(proxy.url, tmp_path / "state")
        proxy.cut_at = 12 * MIB
        client = pusher.start("--json", tmp_path / "big.bin")
        wait_for(lambda: proxy.is_cut, client)
        proxy.slow_from = 24 * MIB
        proxy.mend()
        wait_for(lambda: proxy.file_bytes >= 24 * MIB, client)
        client.send_signal(signal.SIGINT)
        out, err = client.communicate(timeout=30)
        assert client.returncode == 130, err
        assert "same command goes on" in err
        assert "Traceback" not in out + err
        proxy.slow_from = None
        pushed = pusher.run(tmp_path / "big.bin")
        assert pushed.code == 0, pushed
        (upload,) = all_uploads(http, pushed.done["batch"]["url"])
        assert http.get(upload["content_url"]).content == data
    assert pushed.done["sent_bytes"] < 36 * MIB  # it went on
    assert proxy.file_bytes <= 1.05 * len(data) + 2 * 8 * MIB


def test_what_is_gone_or_new_or_other_when_it_goes_on_is_dealt_with(own_server: Boatload, tmp_path: Path) -> None:
    contents = tree(tmp_path / "tree", 300, most=64 * KIB)
    with proxied(own_server.port) as proxy, own_server.client() as http:
        pusher = Pusher(proxy.url, tmp_path / "state")

        def interrupted() -> str:
            before = proxy.file_bytes
            proxy.cut_at = before + 100_000
            stopped = pusher.run("--patience", 0.5, tmp_path / "tree")
            assert stopped.code == 3
            proxy.mend()
            batch_id: str = stopped.of("batch")[0]["batch_id"]
            return batch_id

        first = interrupted()
        left = {upload["ref"] for upload in all_uploads(http, f"/v1/batches/{first}") if not upload["sha256"]}
        gone = min(left)
        (tmp_path / gone).unlink()
        pushed = pusher.run(tmp_path / "tree")
        assert pushed.code == 1
        assert pushed.done["batch"]["id"] == first
        assert [(lost["ref"], lost["code"]) for lost in pushed.of("failed")] == [(gone, "missing")]
        assert counts(pushed.done["batch"])[:3] == (299, 299, 299)

        contents = tree(tmp_path / "tree", 300, seed=1, most=64 * KIB)
        second = interrupted()
        changed = min(contents)
        (tmp_path / changed).write_bytes(b"other")
        pushed = pusher.run(tmp_path / "tree")
        assert pushed.code == 0, pushed
        assert pushed.done["batch"]["id"] != second
        assert finished(http, f"/v1/batches/{second}")["status"] == "cancelled"
        stored = {upload["ref"]: upload["sha256"] for upload in all_uploads(http, pushed.done["batch"]["url"])}
        wanted = contents | {changed: b"other"}
        assert stored == {name: hashlib.sha256(data).hexdigest() for name, data in wanted.items()}
        assert pushed.done["had_files"] > 0
