"""What a request's head must be, beyond what the parser of HTTP sees to: RFC 9112 §3, §6 and RFC 9110 §7.2, §10.1.1."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from app.domain.limits import MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES
from app.domain.request_errors import (
    ExpectationFailedError,
    HeadTooLargeError,
    MalformedRequestError,
    TargetTooLongError,
)

Fields = Sequence[tuple[bytes, bytes]]
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#@]*)([/?][^#]*)?", re.IGNORECASE)
_SPOKEN: Final = frozenset({"1.0", "1.1"})


class Head(NamedTuple):
    """A head that is fit to be answered."""

    target: bytes
    """Where the request goes, in origin form; `*` for OPTIONS of the service as a whole."""
    authority: bytes | None
    """What counts in place of the Host, where the target said so (RFC 9112 §3.2.2)."""


def check_head(method: bytes, target: bytes, version: str, headers: Fields) -> Head:
    """Return what the head comes to; names in `headers` are in lower case.

    Raises HeadTooLargeError, TargetTooLongError, ExpectationFailedError, and MalformedRequestError for what could be
    taken for another request by whoever passed it on.
    """
    if len(target) > MAX_TARGET_BYTES:
        raise TargetTooLongError(MAX_TARGET_BYTES)
    size, hosts = len(target), []
    for name, value in headers:
        size += len(name) + len(value) + 4
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            _check_coding(value, version, headers)
        elif name == b"expect" and version == "1.1" and value.lower() != b"100-continue":
            raise ExpectationFailedError
    if size > MAX_HEAD_BYTES:
        raise too_large()
    if version not in _SPOKEN:
        raise MalformedRequestError(f"HTTP/{version} is not spoken here. Send HTTP/1.1.")
    head = _head(method, target)
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise MalformedRequestError("A request has one Host field (RFC 9110 §7.2).")
    if not all(map(_HOST.fullmatch, [*hosts, head.authority] if head.authority is not None else hosts)):
        raise MalformedRequestError("The Host is not one (RFC 9110 §7.2).")
    return head


def too_large() -> HeadTooLargeError:
    """Return the error of a head over the limits."""
    return HeadTooLargeError(
        f"A request has at most {MAX_HEADERS} header fields, of {MAX_HEAD_BYTES} bytes together.",
        max_headers=MAX_HEADERS,
        max_head_bytes=MAX_HEAD_BYTES,
    )


def _check_coding(value: bytes, version: str, headers: Fields) -> None:
    """Refuse every Transfer-Encoding but one `chunked`: whoever reads another would find the end elsewhere."""
    if version != "1.1" or value.lower() != b"chunked" or sum(name == b"transfer-encoding" for name, _ in headers) > 1:
        raise MalformedRequestError("The only Transfer-Encoding is chunked, once, in HTTP/1.1 (RFC 9112 §6.1).")


def _head(method: bytes, target: bytes) -> Head:
    if target[:1] == b"/" and b"#" not in target and method != b"CONNECT":
        return Head(target, None)
    if target == b"*" and method == b"OPTIONS":
        return Head(target, None)
    absolute = _ABSOLUTE.fullmatch(target) if method != b"CONNECT" else None
    if absolute is None:
        raise MalformedRequestError("The request target is neither a path nor the URL of one (RFC 9112 §3.2).")
    rest = absolute[2] or b"/"
    return Head(rest if rest[:1] == b"/" else b"/" + rest, absolute[1])
