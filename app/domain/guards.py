"""What every file must pass before its bytes are handed out, where the operator asks for it."""

from dataclasses import dataclass
from typing import Final

from app.domain.processing_errors import InfectedError, TypeNotAllowedError
from app.domain.upload import Upload, UploadStatus

SCANNER: Final = "clamd"
"""Under this name the scanner's word is kept in the metadata of an upload; nobody else may write there."""
_HARMFUL: Final = frozenset({InfectedError.code, TypeNotAllowedError.code})


@dataclass(frozen=True, slots=True)
class Guards:
    """Which guards there are."""

    scanner: str | None = None
    """Where the virus scanner listens: `host:port`, or the path of its socket. None: files are not scanned."""
    types: tuple[str, ...] = ()
    """Media types by content that are let in, like `image/png` or `image/*`. Empty: all."""

    def withholds(self, upload: Upload) -> bool:
        """Say whether the upload's bytes must not be handed out: they were found harmful, or nobody has looked yet."""
        if upload.error and upload.error.code in _HARMFUL:
            return True
        if upload.status is UploadStatus.COMPLETED:
            return False
        word = upload.metadata.get(SCANNER)
        is_clean = isinstance(word, dict) and word.get("clean") is True
        return bool((self.scanner and not is_clean) or (self.types and upload.detected_type is None))

    def allows(self, media_type: str) -> bool:
        """Say whether files of a type are let in."""
        return not self.types or media_type in self.types or f"{media_type.partition('/')[0]}/*" in self.types
