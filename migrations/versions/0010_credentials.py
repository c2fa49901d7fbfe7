"""API keys, of which only digests are kept, and the key that tokens for batches are signed with.

The downgrade drops the CHECKs and the index and keeps every row: down and up again loses nothing. An older service asks
nobody for a credential, and listens on loopback alone unless it is told otherwise.

Locks: none that matters; the table is new.
"""

from typing import Final

from alembic import op

revision: Final = "credentials"
down_revision: Final = "doors"

TABLE: Final = """
CREATE TABLE IF NOT EXISTS api_keys (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    name text NOT NULL,
    digest bytea NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
)
"""

CHECKS: Final = {
    "api_keys_digest_is_32_bytes": "octet_length(digest) = 32",
    "api_keys_some_scope": "cardinality(scopes) > 0",
    "api_keys_scopes_known": "scopes <@ '{read,write,admin}'",
}

INDEX: Final = "CREATE UNIQUE INDEX IF NOT EXISTS idx_api_keys_digest ON api_keys (digest)"

SIGNING_KEY: Final = """
INSERT INTO service_keys (name, key)
VALUES ('batch_tokens', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'))
ON CONFLICT (name) DO NOTHING
"""


def upgrade() -> None:
    """Make what is not there."""
    op.execute(TABLE)
    for name, expression in CHECKS.items():
        op.execute(f"ALTER TABLE api_keys DROP CONSTRAINT IF EXISTS {name}")
        op.execute(f"ALTER TABLE api_keys ADD CONSTRAINT {name} CHECK ({expression})")
    op.execute(INDEX)
    op.execute(SIGNING_KEY)


def downgrade() -> None:
    """Drop the rules and the index; every row stays."""
    op.execute("DROP INDEX IF EXISTS idx_api_keys_digest")
    for name in CHECKS:
        op.execute(f"ALTER TABLE IF EXISTS api_keys DROP CONSTRAINT IF EXISTS {name}")
