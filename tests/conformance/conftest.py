"""Every store passes the same suite. A new one joins by a line in STORES."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from app.storage.base import Store
from app.storage.local import LocalStore

# A busy machine is no failure.
settings.register_profile("boatload", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("boatload")


def local_store(folder: Path) -> LocalStore:
    store = LocalStore(folder / "objects")
    store.prepare()
    return store


STORES: Final[dict[str, Callable[[Path], Store]]] = {"local": local_store}
"""Each makes an empty store, with `folder` for what it needs. A store can be pickled: other processes use it too."""


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each store in turn, empty."""
    return STORES[request.param](tmp_path)


@pytest.fixture(params=[False, True], ids=["small", "big"])
def big(request: pytest.FixtureRequest) -> bool:
    """Both kinds of writer."""
    kind: bool = request.param
    return kind


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """Another process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield process
