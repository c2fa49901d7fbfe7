"""The audit log: who did what to which things, a line each under the logger `boatload.audit`."""

from typing import Final

import structlog

from app.domain.access import Caller

# Whatever level the log is set to, these lines are in it.
log: Final = structlog.wrap_logger(
    None, wrapper_class=structlog.make_filtering_bound_logger(0), logger_factory_args=("boatload.audit",)
)


def record(action: str, caller: Caller, **what: object) -> None:
    """Note what a caller has done; `what` are ids and outcomes, never text of a client's own nor a secret."""
    log.info(action, **_who(caller), **what)


def refuse(code: str, caller: Caller | None, detail: str) -> None:
    """Note that somebody was refused: who, where that is known."""
    log.info("refused", **(_who(caller) if caller else {}), code=code, detail=detail)


def _who(caller: Caller) -> dict[str, object]:
    return {"owner": str(caller.owner), "by": caller.kind, "credential": caller.credential}
