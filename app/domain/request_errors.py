"""What is wrong with a request before anybody looks at what it asks for: how it is made, and how it comes."""

from app.domain.errors import BoatloadError


class BrokenOffError(BoatloadError):
    """A request that was not received to its end. What came of its body counts as if its sender had gone away."""


class MalformedRequestError(BrokenOffError):
    """What came is no HTTP/1.1, or could be read in two ways."""

    code = "malformed-request"


class RequestTimeoutError(BrokenOffError):
    """A request that did not come in time."""

    code = "request-timeout"


class HeadTooLargeError(BoatloadError):
    """Header fields over a limit, which is among the facts."""

    code = "head-too-large"


class TargetTooLongError(BoatloadError):
    """A request target over the limit."""

    code = "target-too-long"

    def __init__(self, limit: int) -> None:
        super().__init__(f"A request target has at most {limit} bytes.", max_target_bytes=limit)


class ExpectationFailedError(BoatloadError):
    """An Expect that is not 100-continue."""

    code = "expectation-failed"

    def __init__(self) -> None:
        super().__init__("The only expectation that is met here is 100-continue. Send the request without it.")
