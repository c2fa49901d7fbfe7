"""Whether an answer is one that the OpenAPI document knows."""

import json
import re
from typing import Final

import httpx

from tests.support.server import ROOT

_PATHS: Final = json.loads((ROOT / "openapi.json").read_text())["paths"]
_OF_THE_ROUTER: Final = frozenset({404, 405})


def _pattern(path: str) -> str:
    return re.sub(r"\\{(.+?)\\}", lambda named: ".*" if named[1] == "path" else "[^/]+", re.escape(path))


_STATUSES: Final = [
    (re.compile(_pattern(path)), method.upper(), {int(status) for status in operation["responses"]})
    for path, methods in sorted(_PATHS.items(), key=lambda one: one[0].count("{"))
    for method, operation in methods.items()
]


def check_status(answer: httpx.Response) -> None:
    """Say that its status is one that the document has for the operation; what is no operation is passed over."""
    asked = answer.request
    for pattern, method, statuses in _STATUSES:
        if method == asked.method and pattern.fullmatch(asked.url.path):
            known = statuses | _OF_THE_ROUTER
            assert answer.status_code in known, f"{method} {asked.url.path}: {answer.status_code} is not documented"
            return
