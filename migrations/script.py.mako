"""${message}: what is added and why.

Locks: what is locked, and what is read or written meanwhile. The downgrade keeps: what.
"""

from typing import Final

from alembic import op

revision: Final = ${repr(up_revision)}
down_revision: Final = ${repr(down_revision)}

STATEMENT: Final = """
SELECT 'plain SQL, one statement, which may run twice and needs no answer (sql prints it without a database)'
"""


def upgrade() -> None:
    """Say what it makes."""
    op.execute(STATEMENT)


def downgrade() -> None:
    """Say what it drops; no rows are lost."""
    op.execute(STATEMENT)
