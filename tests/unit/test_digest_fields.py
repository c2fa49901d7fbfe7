import base64
import hashlib

import pytest

from app.api.digests import ContentDigest, repr_digest, sha256_in, wants_sha256
from app.domain.errors import ChecksumMismatchError, InvalidDigestError

DIGEST = hashlib.sha256(b"x").digest()
TEXT = base64.b64encode(DIGEST).decode()
OTHER = f"sha-512=:{base64.b64encode(bytes(64)).decode()}:"


@pytest.mark.parametrize(
    "field",
    [
        f"sha-256=:{TEXT}:",
        f" sha-256=:{TEXT}: ",
        f"{OTHER}, sha-256=:{TEXT}:",
        f"sha-256=:{TEXT}:,{OTHER}",
        f"sha-256=:{TEXT}:;q=1",
        f"sha-256=:{base64.b64encode(bytes(32)).decode()}:, sha-256=:{TEXT}:",
    ],
)
def test_a_sha256_is_found_among_others_and_the_last_one_counts(field: str) -> None:
    assert sha256_in(field) == DIGEST


def test_no_field_and_digests_of_other_kinds_name_none() -> None:
    assert sha256_in(None) is None
    assert sha256_in(OTHER) is None


@pytest.mark.parametrize(
    "field",
    [
        "",
        ",",
        "x",
        "sha-256",
        "sha-256=::",
        "sha-256=:a:",
        "sha-256=:é:",
        f"sha-256={TEXT}",
        f"sha-256=:{TEXT}",
        f"sha-256=:{TEXT[:-4]}:",
        f"sha-256=:{TEXT}:,",
        f"SHA-256=:{TEXT}:",
        f"sha-256=:{TEXT}: x",
        f"{OTHER}, nonsense",
    ],
)
def test_a_field_that_cannot_be_read_is_refused(field: str) -> None:
    with pytest.raises(InvalidDigestError):
        sha256_in(field)


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("sha-256=10", True),
        ("sha-512=3, sha-256=1", True),
        ("sha-256=0", False),
        ("sha-512=10", False),
        ("sha-256", False),
        ("", False),
        (None, False),
    ],
)
def test_a_wish_for_a_digest(field: str | None, *, wanted: bool) -> None:
    assert wants_sha256(field) is wanted


def test_what_is_told_can_be_read() -> None:
    assert sha256_in(repr_digest(DIGEST)) == DIGEST


def test_a_piece_is_checked() -> None:
    right, wrong = ContentDigest(DIGEST), ContentDigest(DIGEST)
    right.update(b"x")
    right.verify()
    wrong.update(b"y")
    with pytest.raises(ChecksumMismatchError):
        wrong.verify()
