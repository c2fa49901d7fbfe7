import pytest

from app.domain.guards import Guards
from app.domain.upload import Refusal, UploadStatus
from tests.support.values import make_upload

SCANNER = Guards(scanner="127.0.0.1:3310")
TYPES = Guards(types=("image/*", "text/plain"))
CLEAN = {"clamd": {"clean": True}}
FOUND = {"clamd": {"clean": False, "signature": "Eicar"}}


@pytest.mark.parametrize(
    ("guards", "media_type", "allowed"),
    [
        (Guards(), "anything/at-all", True),
        (TYPES, "image/png", True),
        (TYPES, "text/plain", True),
        (TYPES, "text/html", False),
        (TYPES, "imagex/png", False),
        (TYPES, "", False),
    ],
)
def test_a_type_is_let_in_by_its_name_or_its_family(guards: Guards, media_type: str, allowed: bool) -> None:  # noqa: FBT001
    assert guards.allows(media_type) is allowed


@pytest.mark.parametrize("code", ["infected", "type-not-allowed"])
@pytest.mark.parametrize("guards", [Guards(), SCANNER, TYPES])
def test_what_was_found_harmful_is_withheld_even_when_the_guard_has_gone(guards: Guards, code: str) -> None:
    upload = make_upload(UploadStatus.FAILED, error=Refusal(code, "…"), detected_type="text/html", metadata=CLEAN)
    assert guards.withholds(upload)


@pytest.mark.parametrize("status", [status for status in UploadStatus if status is not UploadStatus.COMPLETED])
def test_what_no_guard_has_looked_at_is_withheld(status: UploadStatus) -> None:
    error = Refusal("image-unreadable", "…") if status is UploadStatus.FAILED else None
    upload = make_upload(status, error=error, detected_type=None, metadata={})
    assert not Guards().withholds(upload)
    assert SCANNER.withholds(upload)
    assert TYPES.withholds(upload)
    assert SCANNER.withholds(upload._replace(metadata=FOUND))
    assert SCANNER.withholds(upload._replace(metadata={"clamd": {"clean": "true"}}))
    assert not SCANNER.withholds(upload._replace(metadata=CLEAN))
    assert not TYPES.withholds(upload._replace(detected_type="image/png"))


def test_what_was_completed_before_there_were_guards_stays_readable() -> None:
    upload = make_upload(UploadStatus.COMPLETED, detected_type=None, metadata={})
    assert not SCANNER.withholds(upload)
    assert not TYPES.withholds(upload)
