import pytest
from starlette.requests import Request

from app.api.dependencies import page, tagged


def request(method: str = "GET", query: bytes = b"", **headers: str) -> Request:
    fields = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request(
        {
            "type": "http",
            "method": method,
            "path": "/v1/batches",
            "query_string": query,
            "headers": [(b"host", b"boatload.example"), *fields],
            "scheme": "https",
            "server": ("boatload.example", 443),
        }
    )


@pytest.mark.parametrize("known", ['"7"', 'W/"7"', '"6", "7"', '"6",W/"7" , "8"', "*", '"6", *', ' "7" '])
def test_a_client_that_has_it_is_told_so_without_a_body(known: str) -> None:
    response = tagged(b"{}", 7, request(if_none_match=known))
    assert (response.status_code, bytes(response.body)) == (304, b"")
    assert response.headers["etag"] == '"7"'
    assert "content-length" not in response.headers


@pytest.mark.parametrize("known", ["", '"8"', '"77"', "7", "'7'", 'W/"77"', '"', '"6""7"', "7, 8"])
def test_a_client_that_has_another_version_gets_it(known: str) -> None:
    response = tagged(b"{}", 7, request(if_none_match=known))
    assert (response.status_code, bytes(response.body)) == (200, b"{}")
    assert response.headers["etag"] == '"7"'


def test_without_a_condition_it_is_sent_with_its_tag() -> None:
    response = tagged(b"{}", 7, request(), 201, Location="/v1/batches/1")
    assert (response.status_code, bytes(response.body)) == (201, b"{}")
    assert response.headers["etag"] == '"7"'
    assert response.headers["location"] == "/v1/batches/1"
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "private, no-cache"


def test_a_condition_on_a_change_does_not_hide_its_answer() -> None:
    assert tagged(b"{}", 7, request("POST", if_none_match='"7"')).status_code == 200


def test_a_page_links_to_the_next_with_all_that_was_asked_for() -> None:
    response = page(b"{}", request(query=b"limit=5&status=failed&cursor=old"), "new")
    assert response.headers["link"] == '</v1/batches?limit=5&status=failed&cursor=new>; rel="next"'


def test_the_last_page_links_nowhere() -> None:
    assert "link" not in page(b"{}", request(), None).headers


def test_what_a_client_asked_for_does_not_break_out_of_the_link() -> None:
    response = page(b"{}", request(query=b"q=%3E%0D%0AX:%20y&limit=5"), "new")
    assert response.headers["link"] == '</v1/batches?q=%3E%0D%0AX%3A+y&limit=5&cursor=new>; rel="next"'
