"""What can go wrong while a file is looked into, and what then becomes of it. As in errors.py."""

from app.domain.errors import BoatloadError


class UnknownProcessorError(BoatloadError):
    """A processor that the service does not have."""

    code = "unknown-processor"


class ProcessorCrashedError(BoatloadError):
    """The bytes were stored, and the process that looked into them died. It may have been killed from outside."""

    code = "processor-crashed"


class ProcessorTimeoutError(BoatloadError):
    """Looking into the file took longer than allowed."""

    code = "processor-timeout"


class ProcessorOutOfMemoryError(BoatloadError):
    """Looking into the file took more memory than allowed."""

    code = "processor-out-of-memory"


class ProcessorFailedError(BoatloadError):
    """A processor raised what it should not, or answered what cannot be kept."""

    code = "processor-failed"


class ImageTooLargeError(BoatloadError):
    """An image with more pixels than are decoded."""

    code = "image-too-large"


class ImageUnreadableError(BoatloadError):
    """An image that is damaged or cut short."""

    code = "image-unreadable"


class WorkerLostError(BoatloadError):
    """Whoever had begun with the upload went silent before its attempt came to an end."""

    code = "worker-lost"

    def __init__(self) -> None:
        super().__init__("The worker that had begun with it went silent.")


class AttemptsExhaustedError(BoatloadError):
    """The upload was tried as often as allowed, and no attempt came to an end that says why."""

    code = "attempts-exhausted"


class ContentWithheldError(BoatloadError):
    """The bytes are there and not handed out: they were found harmful, or have not been looked at."""

    code = "content-withheld"


class InfectedError(BoatloadError):
    """The virus scanner found something in a file."""

    code = "infected"


class TypeNotAllowedError(BoatloadError):
    """A file whose content is of a type that the operator has not allowed."""

    code = "type-not-allowed"
