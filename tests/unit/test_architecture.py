"""Rules of the house that no linter knows. The direction of imports is import-linter's."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("app", "migrations", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
OURS = [path for path in SOURCES if path.is_relative_to(ROOT / "app")]
MOST_LINES = 400
ENVIRONMENT = frozenset({"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"})


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def environment_reads(source: str) -> Iterator[int]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT:
            yield node.lineno
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (node.lineno for alias in node.names if alias.name in ENVIRONMENT)


def unexplained_catches(source: str) -> Iterator[int]:
    """Lines that catch everything, and have no comment of words beside, above or below them."""
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            words = token.string.lstrip("# ").split(" - ", 1)[-1]
            comments[token.start[0]] = "" if words.startswith(("noqa", "type:", "pragma")) else words
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = [] if node.type is None else [leaf.id for leaf in ast.walk(node.type) if isinstance(leaf, ast.Name)]
        everything = node.type is None or {"Exception", "BaseException"} & set(caught)
        reraises = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        explained = any(comments.get(line) for line in range(node.lineno - 1, node.body[0].lineno + 1))
        if everything and not reraises and not explained:
            yield node.lineno


def test_the_sources_are_found() -> None:
    assert len(OURS) > 30
    assert len(SOURCES) > len(OURS)


def test_no_file_is_too_long_to_have_one_reason_to_change() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_only_the_settings_read_the_environment() -> None:
    reading = [name_of(path) for path in OURS if list(environment_reads(path.read_text()))]
    assert reading == ["app/settings.py"]


def test_whoever_catches_everything_says_why() -> None:
    found = {name_of(path): list(unexplained_catches(path.read_text())) for path in OURS}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import os\nx = os.environ['A']",
        "import os\nx = os.getenv('A')",
        "from os import environ",
        "import os as system\nx = system.environ.get('A')",
    ],
)
def test_reads_of_the_environment_are_seen(source: str) -> None:
    assert list(environment_reads(source))


@pytest.mark.parametrize(
    ("handler", "explained"),
    [
        ("except Exception:\n    pass", False),
        ("except Exception as error:  # noqa: BLE001\n    pass", False),
        ("except Exception:  # noqa: BLE001 - the loop must survive\n    pass", True),
        ("except Exception:\n    # the loop must survive\n    pass", True),
        ("except (OSError, BaseException):\n    pass", False),
        ("except:\n    pass", False),
        ("except BaseException:\n    undo()\n    raise", True),
        ("except ValueError:\n    pass", True),
    ],
)
def test_catches_of_everything_are_seen(handler: str, explained: bool) -> None:  # noqa: FBT001 - a column of the table
    assert bool(list(unexplained_catches(f"try:\n    work()\n{handler}\n"))) is not explained
