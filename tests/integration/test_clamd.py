"""The virus scanner over a real socket, from the processor and from the sandbox."""

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.guards import Guards
from app.domain.ids import new_id
from app.domain.upload import UploadStatus
from app.processing import clamd as scanning
from app.processing.processor import Facts, FinalError, PassingError, ProcessingError, Result
from tests.support.clamd import EICAR, SIGNATURE, Clamd, running
from tests.support.files import png
from tests.support.workbench import bench

MIB = 1 << 20
FACTS = Facts(upload_id=new_id(), filename="a", declared_type=None, size_bytes=1, sha256="0" * 64, attempt=1)


@pytest.fixture(params=["tcp", "unix"])
def clamd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Clamd]:
    with running(Clamd(), tmp_path / "clamd.sock" if request.param == "unix" else None) as scanner:
        yield scanner


def scan(address: str, content: bytes, *, seconds: float = 20) -> Result:
    return scanning.Clamd(address, seconds=seconds).process(FACTS, io.BytesIO(content))


@pytest.mark.parametrize("content", [b"", b"x", bytes(3 * MIB + 1)], ids=["empty", "small", "of many chunks"])
def test_a_clean_file_is_sent_whole_and_said_to_be_clean(clamd: Clamd, content: bytes) -> None:
    assert scan(clamd.address, content).metadata == {"clean": True}
    assert clamd.scanned == [len(content)]


def test_a_virus_is_final_and_its_name_is_kept(clamd: Clamd) -> None:
    with pytest.raises(FinalError, match=SIGNATURE) as found:
        scan(clamd.address, bytes(MIB) + EICAR)
    assert found.value.code == "infected"
    assert found.value.metadata == {"clean": False, "signature": SIGNATURE}


def test_a_file_that_is_too_large_for_the_scanner_is_final(clamd: Clamd) -> None:
    clamd.max_bytes = MIB
    assert scan(clamd.address, bytes(MIB)).metadata == {"clean": True}
    for size in (MIB + 1, 20 * MIB):
        with pytest.raises(FinalError, match="StreamMaxLength") as refused:
            scan(clamd.address, bytes(size))
        assert refused.value.code == "unscannable"


@pytest.mark.parametrize(
    "says", [b"stream: Can't allocate memory ERROR", b"OK", b"stream: ok", b"", b"\xff", b"x" * 100_000]
)
def test_an_answer_that_is_not_understood_may_pass_and_is_never_clean(clamd: Clamd, says: bytes) -> None:
    clamd.says = says or b"\0"
    assert failure(clamd.address, b"x").code == "scanner-unavailable"


@pytest.mark.parametrize("after", [1, MIB])
def test_a_scanner_that_hangs_up_may_come_back(clamd: Clamd, after: int) -> None:
    clamd.cut_after = after
    assert failure(clamd.address, bytes(8 * MIB)).code == "scanner-unavailable"


def test_a_scanner_that_does_not_answer_is_waited_for_no_longer_than_allowed(clamd: Clamd) -> None:
    clamd.slow_seconds = 2
    assert failure(clamd.address, b"x", seconds=0.2).code == "scanner-unavailable"


def test_a_scanner_that_is_away_may_come_back(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for address in (f"127.0.0.1:{port}", str(tmp_path / "nobody.sock"), f"[::1]:{port}"):
        assert failure(address, b"x").code == "scanner-unavailable"


def failure(address: str, content: bytes, *, seconds: float = 20) -> ProcessingError:
    with pytest.raises(PassingError) as raised:
        scan(address, content, seconds=seconds)
    return raised.value


async def test_guards_stand_before_whatever_a_batch_has_chosen(tmp_path: Path) -> None:
    batch_id = new_id()
    chosen: dict[object, tuple[str, ...]] = {batch_id: ()}
    with running(Clamd()) as clamd:
        guards = Guards(clamd.address, types=("image/*", "text/plain"))
        async with bench(tmp_path / "objects", chosen=chosen, guards=guards) as made:  # type: ignore[arg-type]
            uploads = made.stored(png(30, 20), b"words\n" + EICAR, b"%PDF-1.7\n%", batch_id=batch_id)
            clean, infected, other = await made.process(uploads)
    assert clean.error is None
    assert clean.found
    assert (clean.found.detected_type, clean.found.width) == ("image/png", None)
    assert clean.found.metadata == {"clamd": {"clean": True}}
    assert infected.error
    assert infected.found
    assert (infected.error.code, infected.passing) == ("infected", False)
    assert infected.found.metadata == {"clamd": {"clean": False, "signature": SIGNATURE}}
    assert other.error
    assert (other.error.code, other.passing) == ("type-not-allowed", False)
    assert len(clamd.scanned) == 2, "what is not let in is not sent to the scanner"
    assert clean.upload.status is UploadStatus.PROCESSING
