"""One server for the whole folder, with limits that a test can pass."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support import plug_ins
from tests.support.bad_inputs import LIMITS
from tests.support.documented import check_status
from tests.support.postgres import Servers
from tests.support.server import Boatload, serving
from tests.support.tus import Tus


@pytest.fixture(scope="session")
def server(postgres_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boatload]:
    """It has a processor of ill will as well, for batches that choose it."""
    folder = tmp_path_factory.mktemp("plug-ins")
    plug_ins.install(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        with serving(database_url=postgres_servers.get("18").create_migrated(), **LIMITS) as running:
            patch.undo()
            yield running


@pytest.fixture
def client(server: Boatload) -> Iterator[httpx.Client]:
    """It finds fault with any answer that the OpenAPI document does not know."""
    with server.client() as opened:
        opened.event_hooks = {"response": [check_status]}
        yield opened


@pytest.fixture
def tus(client: httpx.Client) -> Tus:
    return Tus(client)
