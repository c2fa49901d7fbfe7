"""The audit log: who did what to which things, a line each under the logger `boatload.audit`."""

from typing import Final

import structlog

from app.domain.access import Caller

log: Final = structlog.get_logger("boatload.audit")


def record(action: str, caller: Caller, **what: object) -> None:
    """Note what a caller has done; `what` are ids and outcomes, never text of a client's own nor a secret."""
    log.info(action, owner=str(caller.owner), by=caller.kind, credential=caller.credential, **what)
