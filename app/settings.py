"""Every setting, read once from the environment: `BOATLOAD_<NAME>`, typed, and refused when unknown or wrong."""

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX: Final = "BOATLOAD_"
MIB: Final = 1 << 20
GIB: Final = 1 << 30
DAY: Final = 24 * 3600
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s,*]+")
_SOCKET: Final = re.compile(r"/.+|(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/(?:\*|[a-z0-9][a-z0-9!#$&^_.+-]*)")


class SettingsError(Exception):
    """A setting is unknown or wrong; the message names each one and says what it takes."""


def default_data_dir() -> Path:
    """`/var/lib/boatload` for root, whose home other users cannot reach; else the user's own data folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/boatload")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "boatload"


def default_state_dir() -> Path:
    """Where `push` remembers what is unfinished: the user's own state folder (XDG base directories)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "boatload"


def _postgres_url(url: str) -> str:
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("must start with postgresql://")
    return url


def _storage_url(url: str) -> str:
    if not url.startswith("file:///"):
        raise ValueError("must be file:///a/folder")
    return url


def _names(given: object) -> object:
    return tuple(name.strip() for name in given.split(",")) if isinstance(given, str) else given


def _once_each(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("names something twice")
    return names


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is not an origin such as https://app.example.org, nor *")
    return origins


def _socket_address(address: str) -> str:
    if not _SOCKET.fullmatch(address):
        raise ValueError("must be host:port, or the absolute path of a socket")
    return address


def _media_types(types: tuple[str, ...]) -> tuple[str, ...]:
    for media_type in types:
        if not _MEDIA_TYPE.fullmatch(media_type):
            raise ValueError(f"{media_type!r} is not a media type such as image/png or image/*, in lower case")
    return types


def _http_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return url.rstrip("/")


JWT_FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "RS": ("RS256", "RS384", "RS512"),
    "PS": ("PS256", "PS384", "PS512"),
    "ES": ("ES256", "ES384", "ES512"),
    "EdDSA": ("EdDSA",),
    "HS": ("HS256", "HS384", "HS512"),
}
_LEAST_SECRET: Final = 32
_LOCAL: Final = re.compile(r"http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?/")


class JwtIssuer(BaseModel):
    """Somebody whose JWTs are credentials here: with keys behind a URL, or with the one `key` that is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: Annotated[str, Field(min_length=1)]
    audience: Annotated[str, Field(min_length=1)]
    family: Literal["RS", "PS", "ES", "EdDSA", "HS"] = "RS"
    jwks_url: str | None = None
    key: SecretStr | None = None
    """A public key (PEM), or for `HS` the secret."""

    @model_validator(mode="after")
    def _has_keys_of_its_family(self) -> "JwtIssuer":
        if (self.jwks_url is None) == (self.key is None):
            raise ValueError("needs jwks_url or key, and not both")
        if self.jwks_url and not self.jwks_url.startswith("https://") and not _LOCAL.match(self.jwks_url):
            raise ValueError("jwks_url must start with https://")
        if self.family == "HS" and (self.key is None or len(self.key.get_secret_value().encode()) < _LEAST_SECRET):
            raise ValueError(f"family HS needs a key of {_LEAST_SECRET} bytes or more")
        if self.key and self.family != "HS":
            _check_public_key(self.family, self.key.get_secret_value())
        return self


def _check_public_key(family: str, pem: str) -> None:
    import jwt  # noqa: PLC0415 - with its cryptography; most services have no such key

    try:
        jwt.get_algorithm_by_name(JWT_FAMILIES[family][0]).prepare_key(pem)
    except (jwt.PyJWTError, ValueError, TypeError):
        pem = ""
    if "BEGIN PUBLIC KEY" not in pem:
        raise ValueError(f"key must be a public key in PEM, of the family {family}")


def _from_json(given: object) -> object:
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        raise ValueError("must be a JSON list of objects") from None


def _issuers(issuers: tuple[JwtIssuer, ...]) -> tuple[JwtIssuer, ...]:
    _once_each(tuple(issuer.issuer for issuer in issuers))
    return issuers


class Settings(BaseSettings):
    """The configuration of one process. Frozen: nothing changes it after the start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    host: Annotated[str, Field(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")] = 8000
    data_dir: Annotated[
        Path,
        AfterValidator(lambda path: path.expanduser().absolute()),
        Field(description="Where the embedded database and the local store live."),
    ] = Field(default_factory=default_data_dir, validate_default=True)
    database_url: Annotated[
        Annotated[str, AfterValidator(_postgres_url)] | None,
        Field(description="PostgreSQL 14 or newer; without it, an embedded PostgreSQL under the data directory."),
    ] = None
    database_pool_size: Annotated[int, Field(ge=2, le=90, description="Database connections of one process.")] = 10
    postgres_version: Annotated[
        Literal["16", "18"], Field(description="Version of a new embedded database; an existing one keeps its own.")
    ] = "18"
    storage_url: Annotated[
        Annotated[str, AfterValidator(_storage_url)] | None,
        Field(description="Where the bytes go; without it, `objects` under the data directory."),
    ] = None
    worker: Annotated[bool, Field(description="Whether `serve` processes files itself.")] = True
    allow_anonymous: Annotated[
        bool, Field(description="Serve everyone who can reach the port, without credentials, on any address. Insecure.")
    ] = False
    jwt_issuers: Annotated[
        tuple[JwtIssuer, ...],
        NoDecode,
        BeforeValidator(_from_json),
        AfterValidator(_issuers),
        Field(description="Whose JWTs are credentials: a JSON list of objects, see docs/security.md."),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(_split),
        AfterValidator(_origins),
        Field(
            description="Origins whose pages may call the API, with commas between them; `*` is any. None by default."
        ),
    ] = ()
    trust_proxy: Annotated[
        bool, Field(description="Whether Forwarded and X-Forwarded-* say under which address clients see the service.")
    ] = False
    max_file_bytes: Annotated[int, Field(ge=1, le=2**60, description="Largest file.")] = 50 * GIB
    max_request_bytes: Annotated[int, Field(ge=1, le=2**60, description="Largest request body.")] = 64 * GIB
    max_parts: Annotated[int, Field(ge=1, description="Most parts, files and fields, in one multipart body.")] = 20_000
    max_files_per_batch: Annotated[int, Field(ge=1, le=2**31 - 1, description="Most uploads in one batch.")] = 1_000_000
    batch_expires_seconds: Annotated[
        int, Field(ge=60, le=366 * DAY, description="Life of a batch whose opener names none.")
    ] = 30 * DAY
    rate_requests: Annotated[int | None, Field(ge=1, description="Most requests of a caller in a minute.")] = None
    rate_writes: Annotated[
        int | None, Field(ge=1, description="Most of those that change something; all count as requests as well.")
    ] = None
    rate_bodies: Annotated[
        int | None, Field(ge=1, description="Most requests of a caller, at the same time, that have a body.")
    ] = None
    quota_bytes: Annotated[
        int | None, Field(ge=0, description="Most bytes that an owner may hold, sent or announced; else no limit.")
    ] = None
    quota_files: Annotated[int | None, Field(ge=0, description="Most files that an owner may hold; else no limit.")] = (
        None
    )
    quota_open_batches: Annotated[
        int | None, Field(ge=0, description="Most batches of an owner that are not finished; else no limit.")
    ] = None
    quota_open_uploads: Annotated[
        int | None, Field(ge=0, description="Most declared uploads of an owner that are not whole; else no limit.")
    ] = None
    pack_file_bytes: Annotated[
        int, Field(ge=0, le=MIB, description="Files up to this size share an object; 0 gives each its own.")
    ] = MIB
    pack_bytes: Annotated[int, Field(ge=1, description="Size at which a new pack is begun.")] = 64 * MIB
    buffer_bytes: Annotated[
        int, Field(ge=4 * MIB, description="Memory that the bodies being received may hold, all together.")
    ] = 32 * MIB
    head_seconds: Annotated[
        float, Field(ge=0.1, le=3600, description="How long the head of a request may take to come.")
    ] = 20
    keep_alive_seconds: Annotated[
        float, Field(ge=0.1, le=3600, description="How long a connection is kept that nothing is asked on.")
    ] = 75
    body_seconds: Annotated[
        float, Field(ge=0.1, le=3600, description="How long a body may bring nothing, and an answer may go unread.")
    ] = 30
    body_bytes_per_second: Annotated[
        int, Field(ge=1, le=GIB, description="A body that comes more slowly uses that time up, and is broken off.")
    ] = 500
    lease_seconds: Annotated[
        float, Field(ge=1, le=3600, description="How long a silent worker keeps the uploads it took.")
    ] = 10
    max_attempts: Annotated[int, Field(ge=1, le=100, description="Tries at one upload before it is failed.")] = 5
    retry_first_seconds: Annotated[
        float, Field(ge=0, le=3600, description="Longest wait behind the first try; it doubles with each further one.")
    ] = 2
    retry_longest_seconds: Annotated[float, Field(ge=0, le=DAY, description="No wait between two tries is longer.")] = (
        300
    )
    processors: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(_names),
        AfterValidator(_once_each),
        Field(description="What looks into files, in this order, where a batch has not chosen; by commas."),
    ] = ("inspect", "image")
    clamd: Annotated[
        Annotated[str, AfterValidator(_socket_address)] | None,
        Field(description="Where clamd listens, host:port or /path: every file is scanned. None by default."),
    ] = None
    allowed_types: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(_split),
        AfterValidator(_media_types),
        Field(description="Types by content that are let in, as image/png,image/*; all by default."),
    ] = ()
    processor_processes: Annotated[
        int | None, Field(ge=1, le=1024, description="Processes that look into files; without it, one a CPU.")
    ] = None
    processor_seconds: Annotated[float, Field(ge=0.1, le=3600, description="How long one file may take.")] = 30
    processor_memory_bytes: Annotated[
        int, Field(ge=256 * MIB, le=2**50, description="Address space of each of those processes.")
    ] = 2 * GIB
    image_max_pixels: Annotated[int, Field(ge=1, le=2**40, description="Most pixels of an image.")] = 100_000_000
    thumbnail_pixels: Annotated[int, Field(ge=16, le=2048, description="Longer side of a thumbnail.")] = 512
    sweep_interval_seconds: Annotated[
        float, Field(ge=0.1, le=7 * DAY, description="How often bytes that no upload refers to are looked for.")
    ] = 3600
    webhook_timeout_seconds: Annotated[
        float, Field(ge=0.1, le=60, description="How long one attempt at a webhook message may take.")
    ] = 15
    webhook_retry_seconds: Annotated[
        float, Field(ge=1, le=7 * DAY, description="How long a webhook message is tried before it is given up.")
    ] = DAY
    webhook_keep_seconds: Annotated[
        float, Field(ge=1, le=366 * DAY, description="How long the log of an ended webhook message is kept.")
    ] = 30 * DAY
    webhook_allow_private: Annotated[
        bool, Field(description="Let webhooks go to private addresses and without TLS; for development.")
    ] = False
    idempotency_seconds: Annotated[
        float,
        Field(ge=1, le=366 * DAY, description="How long the answer to a request with an Idempotency-Key is kept."),
    ] = DAY
    heartbeat_seconds: Annotated[
        float, Field(ge=0.1, le=300, description="How often an event stream shows that it lives while nothing happens.")
    ] = 15
    shutdown_seconds: Annotated[
        int, Field(ge=0, description="How long open requests, and then work that was begun, may go on after SIGTERM.")
    ] = 20
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="Least level logged.")] = (
        "info"
    )
    log_format: Annotated[
        Literal["auto", "console", "json"], Field(description="`auto`: text on a terminal, else JSON lines.")
    ] = "auto"

    @property
    def objects_dir(self) -> Path:
        """The folder of the local store."""
        return Path(self.storage_url.removeprefix("file://")) if self.storage_url else self.data_dir / "objects"

    @property
    def on_loopback(self) -> bool:
        """Whether only programs of this machine reach the port."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class ClientSettings(BaseSettings):
    """What `push` takes from the environment. The service knows the names, and does nothing with them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    url: Annotated[str, AfterValidator(_http_url), Field(description="The service to push to.")] = (
        "http://127.0.0.1:8000"
    )
    token: Annotated[SecretStr | None, Field(description="Credential that is sent with each request.")] = None


def load_settings(**flags: object) -> Settings:
    """Read the environment; `flags` that are not None win over it.

    Raises SettingsError, which names every variable that is unknown or wrong.
    """
    return _load(Settings, flags)


def load_client_settings(**flags: object) -> ClientSettings:
    """Read the environment for `push`. As `load_settings`."""
    return _load(ClientSettings, flags)


_Read = TypeVar("_Read", Settings, ClientSettings)


def _load(kind: type[_Read], flags: Mapping[str, object]) -> _Read:
    known = {PREFIX + name.upper() for name in Settings.model_fields | ClientSettings.model_fields}
    given = (name for name in sorted(os.environ) if name.startswith(PREFIX))
    faults = [f"{name}: no such setting" for name in given if name not in known]
    try:
        settings = kind(**{name: value for name, value in flags.items() if value is not None})  # type: ignore[arg-type]  # it checks
    except ValidationError as error:
        faults += [f"{_named(fault['loc'])}: {fault['msg']}" for fault in error.errors()]
    if faults:
        raise SettingsError("; ".join(faults))
    return settings


def _named(place: tuple[int | str, ...]) -> str:
    """Return how a setting is called, and behind it where in its value the fault is."""
    name, *inside = map(str, place)
    return ".".join([PREFIX + name.upper(), *inside])
