"""What Alembic runs for each command. `app.db.migrate` alone calls it and says in the attributes `run` what to do."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from app.db.migrate import Run
from app.db.migration_session import VERSION_TABLE, session


def _print() -> None:
    """Write the SQL to the output buffer; no database is asked."""
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        version_table=VERSION_TABLE,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _migrate(connection: Connection, run: Run) -> None:
    """Run the revisions, each in a transaction of its own: what a failure leaves behind is whole revisions."""
    context.configure(
        connection=connection,
        version_table=VERSION_TABLE,
        transaction_per_migration=True,
        on_version_apply=run.applied,  # type: ignore[arg-type]  # Alembic calls it by keyword, as it says
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


async def _connect(run: Run) -> None:
    """Hand the one session, which holds the lock, to SQLAlchemy. It must not be closed under the lock's feet."""
    async with session(run.dsn, locked=True) as connection:

        async def lend() -> object:
            return connection

        engine = create_async_engine("postgresql+asyncpg://", async_creator=lend, poolclass=StaticPool)
        async with engine.connect() as sqlalchemy_connection:
            await sqlalchemy_connection.run_sync(_migrate, run)


if context.is_offline_mode():
    _print()
else:
    asyncio.run(_connect(context.config.attributes["run"]))
