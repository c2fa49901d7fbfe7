"""For those who read the store directly, each upload may have an object of its own."""

from tests.support.postgres import Servers
from tests.support.server import serving
from tests.support.wire import File, finished, send


def test_without_packs_each_upload_is_a_file_of_its_own(postgres_servers: Servers) -> None:
    with (
        serving(database_url=postgres_servers.get("18").create_migrated(), pack_file_bytes=0) as server,
        server.client() as client,
    ):
        answer = send(client, "/v1/uploads", File("a", b"aaa"), File("b", b""), File("c", b"cc"))
        assert answer.status_code == 201
        assert sorted(path.read_bytes() for path in server.objects.glob("*/*")) == [b"", b"aaa", b"cc"]
        assert finished(client, answer.json()["url"])["status"] == "completed"
        for result, data in zip(answer.json()["results"], (b"aaa", b"", b"cc"), strict=True):
            assert client.get(result["upload"]["content_url"]).content == data
