"""Which operation a request is for: found once, and whatever depends on it goes by its name, as in `openapi.json`.

Who may ask for it, how far a token reaches, what the audit log calls it, which lane takes it: if each read the path for
itself, one of them would some day read it otherwise than the rest.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fastapi.routing import APIRoute

from app.domain.access import AccessScope

OPERATION: Final = "boatload.operation"
"""Where in the scope of a request its Operation is, None for none. `path_params` has the ids, as they were sent."""
_READING: Final = frozenset({"GET", "HEAD"})
_WEBHOOKS: Final = "/v1/webhooks"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    name: str
    needs: AccessScope


class Operations:
    """All that there are."""

    def __init__(self, routes: Sequence[APIRoute]) -> None:
        self._patterns: Final = [(route.path_regex, sorted(route.methods or ())) for route in routes]
        self._of_method: Final[Mapping[str, list[tuple[re.Pattern[str], Operation]]]] = defaultdict(list)
        for route in routes:
            for method in route.methods or ():
                operation = Operation(route.name, _needed(method, route.path))
                self._of_method[method].append((route.path_regex, operation))

    def find(self, method: str, path: str) -> tuple[Operation | None, dict[str, str]]:
        """Return what is asked for, and the parts of the path that are named, as they came."""
        for pattern, operation in self._of_method.get(method, ()):
            # The pattern ends in `$`, which takes a line break for nothing; the framework never sees such a path.
            if match := pattern.fullmatch(path):
                return operation, match.groupdict()
        return None, {}

    def methods_of(self, path: str) -> list[str]:
        """Return all methods that a path takes."""
        return sorted({method for pattern, methods in self._patterns if pattern.fullmatch(path) for method in methods})


def _needed(method: str, path: str) -> AccessScope:
    if path.startswith(_WEBHOOKS):
        return AccessScope.ADMIN
    return AccessScope.READ if method in _READING else AccessScope.WRITE
