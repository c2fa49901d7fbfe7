"""`webhook_secrets`: what an owner's messages are signed with; one row an owner, made when it is first needed."""

import json
from datetime import datetime
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.webhook import OlderSecret, SigningSecrets

if TYPE_CHECKING:
    from app.db.pool import Connection

ADD: Final[LiteralString] = """
    INSERT INTO webhook_secrets (user_id, current) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING
"""

GET: Final[LiteralString] = "SELECT current, older FROM webhook_secrets WHERE user_id = $1"

LOCK: Final[LiteralString] = "SELECT current, older FROM webhook_secrets WHERE user_id = $1 FOR UPDATE"

SAVE: Final[LiteralString] = """
    UPDATE webhook_secrets SET current = $2, older = $3, updated_at = now() WHERE user_id = $1
"""


class WebhookSecrets:
    """The secrets, bound to one connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

    async def get_or_add(self, user_id: UUID, fresh: str) -> SigningSecrets:
        """Return the owner's; where there is none yet, `fresh` becomes it. Many may ask at once: all get the same."""
        return await self._read(GET, user_id) or await self._added(GET, user_id, fresh)

    async def lock_or_add(self, user_id: UUID, fresh: str) -> SigningSecrets:
        """Return the owner's as above, locked: who changes an owner's webhooks does so one after the other."""
        return await self._read(LOCK, user_id) or await self._added(LOCK, user_id, fresh)

    async def save(self, user_id: UUID, secrets: SigningSecrets) -> None:
        """Write secrets that this transaction has locked."""
        older = [{"secret": one.secret, "until": one.until.isoformat()} for one in secrets.older]
        await self._connection.execute(SAVE, user_id, secrets.current, json.dumps(older))

    async def _added(self, then: LiteralString, user_id: UUID, fresh: str) -> SigningSecrets:
        await self._connection.execute(ADD, user_id, fresh)
        found = await self._read(then, user_id)
        assert found is not None
        return found

    async def _read(self, statement: LiteralString, user_id: UUID) -> SigningSecrets | None:
        row = await self._connection.fetchrow(statement, user_id)
        if row is None:
            return None
        older = (OlderSecret(one["secret"], datetime.fromisoformat(one["until"])) for one in json.loads(row["older"]))
        return SigningSecrets(row["current"], tuple(older))
