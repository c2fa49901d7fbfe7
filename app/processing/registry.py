"""Which processors there are: the built-in ones, and those of installed packages, found by entry point."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from app.domain.limits import ImageLimits
from app.processing import guarding
from app.processing.processor import Processor

GROUP: Final = "boatload.processors"
BUILT_IN: Final[Mapping[str, str]] = {
    "inspect": "app.processing.inspect:Inspect",
    "image": "app.processing.image:ImageProcessor",
}
"""By name; here and not among the entry points of our own package, which need not be installed."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class ProcessorsError(Exception):
    """A processor is unknown, broken or there twice; the message is a sentence for the operator."""


def available() -> dict[str, EntryPoint]:
    """Return all processors that can be chosen, by name; nothing of them is imported.

    Raises ProcessorsError where two have one name, or one has a name that is none.
    """
    found = {name: EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()}
    for entry in entry_points(group=GROUP):
        if entry.name in guarding.NAMES:
            raise ProcessorsError(f"The processor {entry.value} is called {entry.name!r}, which is a guard of our own.")
        known = found.setdefault(entry.name, entry)
        if known.value != entry.value:
            raise ProcessorsError(
                f"Two processors are called {entry.name!r}: {known.value} and {entry.value}. Uninstall one."
            )
        if not _NAME.fullmatch(entry.name):
            raise ProcessorsError(f"The processor {entry.value} is called {entry.name!r}, which is no name for one.")
    return found


def require(names: Sequence[str]) -> frozenset[str]:
    """Return the names of all processors. Raises ProcessorsError where one of `names` is not among them."""
    known = available().keys()
    if missing := [name for name in names if name not in known]:
        raise ProcessorsError(
            f"There is no processor {', '.join(map(repr, missing))}. There are: {', '.join(sorted(known))}."
        )
    return frozenset(known)


def has_plug_ins() -> bool:
    """Say whether there are processors that are not built in."""
    return available().keys() != BUILT_IN.keys()


def make(name: str, limits: ImageLimits) -> Processor:
    """Import and make a processor. Raises ProcessorsError where it is unknown, cannot be imported, or is none."""
    entry = available().get(name)
    if entry is None:
        raise ProcessorsError(f"There is no processor {name!r}.")
    try:
        made = entry.load()(limits) if name == "image" else entry.load()()
    except Exception as error:  # whatever somebody else's module raises when it is imported
        raise ProcessorsError(
            f"The processor {name!r} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(made, "wants", None)) or not callable(getattr(made, "process", None)):
        raise ProcessorsError(f"The processor {name!r} ({entry.value}) has no methods wants and process.")
    processor: Processor = made
    return processor
