"""The guards, as processors that run before all others, whatever a batch has chosen."""

from typing import BinaryIO, Final

from app.domain.guards import SCANNER, Guards
from app.domain.processing_errors import TypeNotAllowedError
from app.processing.clamd import Clamd
from app.processing.inspect import HEAD_BYTES, detect_type
from app.processing.processor import Facts, FinalError, Processor, Result

TYPES: Final = "types"
NAMES: Final = frozenset({SCANNER, TYPES})
"""No other processor may have one of these."""
_SHARE: Final = 0.8
"""How much of a file's time a step of the scanner may take: who is slower is a scanner that is away, not a bad file."""


class AllowedTypes:
    """Lets files in by what their content says they are."""

    def __init__(self, guards: Guards) -> None:
        self._guards: Final = guards

    def wants(self, _facts: Facts) -> bool:
        """Look at each."""
        return True

    def process(self, _facts: Facts, file: BinaryIO) -> Result:
        """Return the type. Raises FinalError: `type-not-allowed`."""
        found = detect_type(file.read(HEAD_BYTES))
        if not self._guards.allows(found):
            raise FinalError(TypeNotAllowedError.code, f"Files of the type {found} are not taken here.")
        return Result(detected_type=found)


def make_guards(guards: Guards, *, seconds: float) -> dict[str, Processor]:
    """Return the guards that are asked for, by name, in their order. `seconds` is what a file may take."""
    made: dict[str, Processor] = {}
    if guards.types:
        made[TYPES] = AllowedTypes(guards)
    if guards.scanner:
        made[SCANNER] = Clamd(guards.scanner, seconds=seconds * _SHARE)
    return made
