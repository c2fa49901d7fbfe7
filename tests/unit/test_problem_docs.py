"""The table of problems in the HTTP guide and the OpenAPI document, against those that the code answers with."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from app.api.problems import OF_ANY_REQUEST, OTHERS, TABLE
from app.api.tus_route import STATUSES

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"\| `/problems/([a-z-]+)` \| ([^|]+) \| ([^|]+) \|(?: ([^|]+) \|)?")


def documented() -> dict[str, set[int]]:
    """The slugs of the guide, each with the statuses beside it."""
    rows = ROW.findall((ROOT / "docs" / "http.md").read_text())
    assert len({slug for slug, *_ in rows}) == len(rows)
    return {slug: {int(status) for status in re.findall(r"[0-9]{3}", statuses)} for slug, statuses, *_ in rows}


def answered() -> dict[str, set[int]]:
    """The slugs of the code, each with its statuses; tus has some of its own."""
    own = {error.code: {status} for error, status in STATUSES.items()}
    ours = {error.code: {status} | own.get(error.code, set()) for error, (status, _) in TABLE.items()}
    return ours | {code: {status} for code, (status, _) in OTHERS.items()}


def operations() -> Iterator[tuple[str, set[int]]]:
    document = json.loads((ROOT / "openapi.json").read_text())
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", {int(status) for status in operation["responses"]}


def test_the_guide_names_every_problem_with_its_status_and_no_other() -> None:
    assert documented() == answered()


def test_every_problem_is_made_from_the_tables() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "app").rglob("*.py")}
    assert [name for name, source in sources.items() if "/problems/" in source.replace("`/problems/<slug>`", "")] == [
        "problems.py"
    ]


def test_openapi_says_of_every_operation_what_any_request_may_be_answered_with() -> None:
    for name, statuses in operations():
        assert OF_ANY_REQUEST | {500, 503} <= statuses, name


def test_openapi_knows_every_status_of_a_problem() -> None:
    known = {status for _, statuses in operations() for status in statuses}
    assert {status for statuses in answered().values() for status in statuses} - known == {405}
