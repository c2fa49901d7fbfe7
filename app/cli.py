"""The commands."""

import asyncio
import json
import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, Never
from uuid import UUID

import structlog
import typer

from app import logs
from app.auth import command as keys_command
from app.client import command as push_command
from app.db import migrate
from app.db.embedded import EmbeddedError, EmbeddedPostgres, attach
from app.domain.access import AccessScope
from app.domain.errors import BoatloadError
from app.ingest import quota_command
from app.processing.registry import ProcessorsError
from app.settings import (
    Settings,
    SettingsError,
    default_state_dir,
    load_client_settings,
    load_settings,
)
from app.tuning import most_files, tune_memory

log: Final = structlog.get_logger("boatload")

_SWITCH_SECONDS: Final = 0.0005
"""How long a parsing thread may keep the interpreter from the event loop; Python's own 5 ms is long in a group."""

_INTERRUPTED: Final = 128 + 2
"""What a shell says of a command that was ended by Ctrl-C."""

cli: Final = typer.Typer(
    help="A self-hosted batch-upload service. Every setting is an environment variable BOATLOAD_<NAME>.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
migrations: Final = typer.Typer(help="Change the database schema, or say where it stands.", no_args_is_help=True)
cli.add_typer(migrations, name="migrate")
keys: Final = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
cli.add_typer(keys, name="keys")
quotas: Final = typer.Typer(help="Say how much owners may hold.", no_args_is_help=True)
cli.add_typer(quotas, name="quotas")

Lowest = Annotated[str, typer.Argument(help="How far; 'base' is all the way.")]
DataDir = Annotated[Path | None, typer.Option(help="Where the embedded database and the local store live.")]


@cli.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    data_dir: DataDir = None,
    with_worker: Annotated[bool | None, typer.Option("--worker/--no-worker", help="Process files here.")] = None,
) -> None:
    """Serve the API, the documentation at /docs, and (unless told otherwise) process what comes in."""
    settings = _settings(host=host, port=port, data_dir=data_dir, worker=with_worker)
    import uvicorn  # noqa: PLC0415 - a worker needs no web framework, and starts in half the time without
    from uvicorn.config import STARTUP_FAILURE  # noqa: PLC0415 - the same

    from app.api.deadlines import BodyDeadlines  # noqa: PLC0415 - the same
    from app.api.protocol import protocol  # noqa: PLC0415 - the same
    from app.api.server import Server  # noqa: PLC0415 - the same
    from app.bootstrap import check_store  # noqa: PLC0415 - the same
    from app.main import create_app, end_waiting  # noqa: PLC0415 - the same

    _check_processors(settings)
    with _database(settings, own=True) as dsn:
        if settings.database_url:
            _check_schema(dsn)
        else:
            migrate.upgrade(dsn)
        if not asyncio.run(keys_command.may_serve(settings, dsn)):
            _fail(
                f"Refusing to listen on {settings.host} without credentials: anybody who reaches it could read and "
                "write. Make a key ('boatload keys create NAME'), listen on 127.0.0.1, or set "
                "BOATLOAD_ALLOW_ANONYMOUS=true where the network in front of it keeps strangers out."
            )
        check_store(settings)
        log.info("serving", url=f"http://{settings.host}:{settings.port}", docs="/docs", worker=settings.worker)
        sys.setswitchinterval(_SWITCH_SECONDS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        app = create_app(settings, dsn)
        config = uvicorn.Config(
            BodyDeadlines(
                app,
                seconds=settings.body_seconds,
                bytes_per_second=settings.body_bytes_per_second,
                max_bytes=settings.max_request_bytes,
            ),
            host=settings.host,
            port=settings.port,
            http=protocol(  # type: ignore[arg-type]  # called, whatever it is
                head_seconds=settings.head_seconds,
                unread_seconds=settings.body_seconds,
                unread_bytes_per_second=settings.body_bytes_per_second,
            ),
            timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]  # seconds of any kind
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # whom to believe is BOATLOAD_TRUST_PROXY's to say
            timeout_graceful_shutdown=settings.shutdown_seconds,
        )
        tune_memory()
        server = Server(config, before_stop=partial(end_waiting, app))
        with suppress(KeyboardInterrupt):
            server.run()
        if not server.started:
            raise typer.Exit(STARTUP_FAILURE)


@cli.command()
def worker(*, data_dir: DataDir = None) -> None:
    """Process what comes in, beside any number of other workers, and serve nothing.

    Uses the database and the store that are configured, or those of the `boatload serve` on the same data directory.
    """
    settings = _settings(data_dir=data_dir)
    from app.worker import work  # noqa: PLC0415 - `migrate` needs none of it

    _check_processors(settings)
    try:
        dsn = settings.database_url or attach(settings.data_dir)
        _check_schema(dsn)
        well = asyncio.run(work(settings, dsn))
    except (EmbeddedError, migrate.MigrationError, BoatloadError) as error:
        _fail(str(error))
    if not well:
        _fail("A loop has died, the log says why. Start it again.")


@cli.command()
def push(
    paths: Annotated[list[Path] | None, typer.Argument(help="Files and folders.", exists=True)] = None,
    *,
    url: Annotated[
        str | None, typer.Option(help="The service; also BOATLOAD_URL.  [default: http://127.0.0.1:8000]")
    ] = None,
    token: Annotated[str | None, typer.Option(help="Credential; better given as BOATLOAD_TOKEN.")] = None,
    batch: Annotated[UUID | None, typer.Option(help="Add to this batch, and seal it.")] = None,
    watch: Annotated[UUID | None, typer.Option(help="Send nothing; follow this batch to its end.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout, for programs.")] = False,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to go on trying while the service is away.")] = 60,
) -> None:
    """Send files and folders as one batch, and follow it to its end. The same command again goes on after any stop.

    Exits 0 where all is completed, 1 where a file failed, 2 for wrong usage, 3 where it could not come to its end.
    """
    if bool(paths) == bool(watch) or (watch and batch):
        raise typer.BadParameter("Name what to send, or a batch to --watch.")
    try:
        settings = load_client_settings(url=url, token=token)
        code = push_command.run(
            paths or [],
            url=settings.url,
            token=settings.token.get_secret_value() if settings.token else None,
            batch_id=watch or batch,
            state_dir=default_state_dir(),
            as_json=as_json,
            patience=patience,
        )
    except (SettingsError, push_command.UsageError) as error:
        sys.stderr.write(f"boatload: {error}\n")
        raise typer.Exit(push_command.USAGE) from None
    except KeyboardInterrupt:
        sys.stderr.write("boatload: Interrupted. The same command goes on from here.\n")
        raise typer.Exit(_INTERRUPTED) from None
    raise typer.Exit(code)


@cli.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from app.main import create_app  # noqa: PLC0415 - a worker needs no web framework

    sys.stdout.write(json.dumps(create_app(_settings(), "").openapi(), indent=2) + "\n")


@migrations.command()
def up(revision: Annotated[str, typer.Argument(help="How far.")] = "head", data_dir: DataDir = None) -> None:
    """Bring the schema up to a revision."""
    with _database(_settings(data_dir=data_dir)) as dsn:
        _say(*(f"applied {name}" for name in migrate.upgrade(dsn, revision)))


@migrations.command()
def down(
    revision: Annotated[str, typer.Argument(help="How far; 'base' is all the way.")], data_dir: DataDir = None
) -> None:
    """Take the schema down to a revision. No rows are lost; what is kept is said by each revision."""
    with _database(_settings(data_dir=data_dir)) as dsn:
        _say(*(f"undone {name}" for name in migrate.downgrade(dsn, revision)))


@migrations.command()
def status(data_dir: DataDir = None) -> None:
    """List the revisions, and say which are applied. Exits 1 where one is not."""
    with _database(_settings(data_dir=data_dir)) as dsn:
        found = migrate.status(dsn)
    _say(*(f"{'applied' if step.applied else 'pending'}  {step.name:20}  {step.summary}" for step in found.revisions))
    if found.pending:
        raise typer.Exit(1)


@migrations.command()
def sql(
    direction: Annotated[str, typer.Argument(help="up or down.")] = "up",
    revisions: Annotated[str, typer.Argument(help="FROM:TO, older first; or one revision.")] = "base:head",
) -> None:
    """Print the SQL of a migration, without asking any database."""
    _settings()
    if direction not in {"up", "down"}:
        _fail("The direction is up or down.")
    way: Literal["up", "down"] = "up" if direction == "up" else "down"
    try:
        sys.stdout.write(migrate.sql(way, revisions))
    except migrate.MigrationError as error:
        _fail(str(error))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for; anything that tells it from the others.")],
    *,
    user: Annotated[
        str | None,
        typer.Option(help="Whose batches it works on: a UUID, or 'new'.  [default: the owner before there were keys]"),
    ] = None,
    scope: Annotated[list[AccessScope] | None, typer.Option(help="May be repeated.  [default: read, write]")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=36_500, help="Its life.  [default: without end]")] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key. Its secret is the only line on stdout, and is never shown again."""
    settings = _settings(data_dir=data_dir)
    try:
        owner = keys_command.owner_of(user)
    except ValueError:
        _fail("--user takes a UUID, or 'new'.")
    with _migrated_database(settings) as dsn:
        secret, told = asyncio.run(keys_command.create(dsn, owner, name, scope or (), days))
    sys.stderr.write(told + "\n")
    _say(secret)


@keys.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List all keys, oldest first."""
    with _migrated_database(_settings(data_dir=data_dir)) as dsn:
        _say(*asyncio.run(keys_command.lines(dsn)))


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[UUID, typer.Argument(help="As 'boatload keys list' shows it.")], data_dir: DataDir = None
) -> None:
    """Revoke a key, for ever. A running service refuses it within five seconds."""
    with _migrated_database(_settings(data_dir=data_dir)) as dsn:
        if not asyncio.run(keys_command.revoke(dsn, key_id)):
            _fail("There is no such key. 'boatload keys list' shows them all.")
    _say(f"revoked {key_id}")


@quotas.command("set")
def set_quota(
    owner: Annotated[UUID, typer.Argument(help="Whose.")],
    *,
    size: Annotated[str | None, typer.Option("--bytes", help="Bytes stored and declared.")] = None,
    files: Annotated[str | None, typer.Option(help="Files stored and declared.")] = None,
    open_batches: Annotated[str | None, typer.Option(help="Batches that are not finished.")] = None,
    open_uploads: Annotated[str | None, typer.Option(help="Declared uploads that are not whole.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Change limits of one owner: a number, 'unlimited', or 'default' for what the service is set to."""
    given = {"bytes": size, "files": files, "open_batches": open_batches, "open_uploads": open_uploads}
    try:
        limits = quota_command.limits_of(given)
    except ValueError as error:
        _fail(str(error))
    with _migrated_database(_settings(data_dir=data_dir)) as dsn:
        asyncio.run(quota_command.change(dsn, owner, limits))


@quotas.command("list")
def list_quotas(data_dir: DataDir = None) -> None:
    """Print the limits that are set, and how much of them is used."""
    with _migrated_database(_settings(data_dir=data_dir)) as dsn:
        _say(*asyncio.run(quota_command.lines(dsn)))


@quotas.command("recount")
def recount_quotas(data_dir: DataDir = None) -> None:
    """Count anew what everybody holds, after rows were changed by hand. Writing waits meanwhile."""
    with _migrated_database(_settings(data_dir=data_dir)) as dsn:
        asyncio.run(quota_command.recount(dsn))


def main() -> None:
    """Run a command; an error that an operator can mend is one sentence on stderr and exit code 1."""
    cli()


@contextmanager
def _database(settings: Settings, *, own: bool = False) -> Iterator[str]:
    """Lend the DSN of the database that is configured, or of the embedded one.

    That is the server which another command is running on the data directory, unless it must be our `own`; else one is
    started for as long as this lasts.
    """
    with ExitStack() as stack:
        try:
            yield settings.database_url or _embedded(settings, stack, own=own)
        except (EmbeddedError, migrate.MigrationError, BoatloadError) as error:
            _fail(str(error))


@contextmanager
def _migrated_database(settings: Settings) -> Iterator[str]:
    """Lend the DSN of a database that has all tables; an embedded one that nobody serves is brought up to date."""
    with _database(settings) as dsn:
        if not settings.database_url and migrate.status(dsn).pending:
            migrate.upgrade(dsn)
        _check_schema(dsn)
        yield dsn


def _embedded(settings: Settings, stack: ExitStack, *, own: bool) -> str:
    if not own:
        with suppress(EmbeddedError):
            return attach(settings.data_dir)
    return stack.enter_context(EmbeddedPostgres(settings.data_dir, settings.postgres_version)).dsn


def _check_processors(settings: Settings) -> None:
    from app.bootstrap import check_processors  # noqa: PLC0415 - `migrate` needs none of it

    try:
        check_processors(settings)
    except ProcessorsError as error:
        _fail(str(error))


def _check_schema(dsn: str) -> None:
    """Refuse a database that lacks a revision. Raises MigrationError."""
    pending = migrate.status(dsn).pending
    if pending:
        _fail(f"The database lacks {', '.join(pending)}. Run 'boatload migrate up' first.")


def _settings(**flags: object) -> Settings:
    try:
        settings = load_settings(**flags)
    except SettingsError as error:
        _fail(str(error))
    logs.configure(settings.log_level, settings.log_format)
    return settings


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _fail(message: str) -> Never:
    sys.stderr.write(f"boatload: {message}\n")
    raise typer.Exit(1)
