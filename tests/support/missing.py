"""What a test does where the machine lacks something: it is skipped, but on CI it fails."""

import os
from typing import Never

import pytest


def lacking(what: str) -> Never:
    """Skip the test, or fail it on CI, where nothing may be lacking."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}, and on CI that must not be")
    pytest.skip(what)
