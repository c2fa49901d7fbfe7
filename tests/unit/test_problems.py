import json
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from app.api import problems
from app.api.problems import TABLE, answer, describe, of_error
from app.domain.errors import BoatloadError, StorageUnavailableError, TooManyPartsError

RESERVED = frozenset({"type", "title", "status", "detail", "instance"})


def leaves(error: type[BoatloadError]) -> Iterator[type[BoatloadError]]:
    children = error.__subclasses__()
    if not children:
        yield error
    for child in children:
        yield from leaves(child)


def test_the_table_names_every_leaf_error_and_nothing_else() -> None:
    assert set(TABLE) == set(leaves(BoatloadError))


def test_every_error_has_a_code_of_its_own_that_fits_a_url() -> None:
    codes = [error.code for error in TABLE]
    assert len(codes) == len(set(codes))
    for code in codes:
        assert code == "-".join(word for word in code.split("-") if word.isalnum() and word.islower())


@pytest.mark.parametrize("error", TABLE, ids=lambda error: error.__name__)
def test_every_status_is_one_that_http_knows_for_errors(error: type[BoatloadError]) -> None:
    status, title = TABLE[error]
    assert HTTPStatus(status) >= 400
    assert title
    assert title[0].isupper()
    assert not title.endswith(".")


@pytest.mark.parametrize("error", TABLE, ids=lambda error: error.__name__)
def test_what_is_kept_of_an_error_is_enough_to_show_its_problem(error: type[BoatloadError]) -> None:
    status, title = TABLE[error]
    shown = describe(error.code, "What happened.").model_dump()
    assert shown == {"type": f"/problems/{error.code}", "title": title, "status": status, "detail": "What happened."}


def test_a_code_that_a_processor_chose_is_shown_as_a_failure_of_processing() -> None:
    shown = describe("archive-encrypted", "The archive has a password.").model_dump()
    assert shown == {
        "type": "/problems/archive-encrypted",
        "title": "Processing failed",
        "status": 422,
        "detail": "The archive has a password.",
    }


def test_facts_become_members_beside_the_standard_ones() -> None:
    problem = of_error(TooManyPartsError("The body has more than 5 parts.", max_parts=5))
    assert problem.model_dump() == {
        "type": "/problems/too-many-parts",
        "title": "Too many parts",
        "status": 413,
        "detail": "The body has more than 5 parts.",
        "max_parts": 5,
    }


def test_an_answer_is_problem_json_with_the_status_of_the_problem() -> None:
    response = answer(of_error(TooManyPartsError("Too many.", max_parts=5)), {"X-Extra": "yes"})
    assert response.status_code == 413
    assert response.headers["content-type"] == problems.MEDIA_TYPE == "application/problem+json"
    assert response.headers["x-extra"] == "yes"
    assert "retry-after" not in response.headers
    body = json.loads(bytes(response.body))
    assert body["status"] == 413
    assert body["max_parts"] == 5


def test_what_may_pass_soon_says_when_to_come_back() -> None:
    response = answer(of_error(StorageUnavailableError()))
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("error", TABLE, ids=lambda error: error.__name__)
def test_every_error_has_a_sentence(error: type[BoatloadError]) -> None:
    try:
        made = error("A sentence.")
    except TypeError:
        made = error()  # type: ignore[call-arg]
    assert made.detail == str(made)
    assert made.detail.endswith(".")
    assert not RESERVED & set(made.facts)
