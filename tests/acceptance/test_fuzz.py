"""The API tried by its own OpenAPI document; `make fuzz` tries it for longer, and with chance."""

from tests.fuzz.http import play
from tests.support.credentials import make_key
from tests.support.postgres import Servers
from tests.support.server import serving


def test_every_answer_is_one_that_the_document_names(postgres_servers: Servers) -> None:
    database = postgres_servers.get("18").create_migrated()
    key = make_key(database)
    with serving(database_url=database) as server:
        played = play(server.url, key, examples=10, how=["--generation-deterministic"])
    assert played.faults == ""
    assert played.cases >= 500
