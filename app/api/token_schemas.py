"""What requests for batch tokens look like, and what they are answered with."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.auth import batch_tokens
from app.domain.access import AccessScope


class NewBatchToken(BaseModel):
    """What a token is made with. All of it may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expires_in_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            le=int(batch_tokens.LONGEST_LIFE.total_seconds()),
            description=f"Its life; {int(batch_tokens.LIFE.total_seconds())} without it. It can be renewed.",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class BatchToken:
    """A token that is good for one batch. It is not shown again."""

    token: Annotated[str, Field(description="Sent as `Authorization: Bearer`.")]
    batch_id: UUID
    scopes: Annotated[list[AccessScope], Field(description="`read` and `write`, as far as its maker had them.")]
    expires_at: datetime
    renewable_until: Annotated[datetime, Field(description="No token that it is renewed by lives longer.")]


BATCH_TOKEN: Final = TypeAdapter(BatchToken)


def batch_token_out(token: batch_tokens.BatchToken) -> BatchToken:
    """Return a token as it is told to whoever made it."""
    return BatchToken(token.secret, token.batch_id, sorted(token.scopes), token.expires_at, token.renewable_until)
