from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.settings import (
    MIB,
    ClientSettings,
    Settings,
    SettingsError,
    default_data_dir,
    default_state_dir,
    load_client_settings,
    load_settings,
)

SetEnv = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def setenv(monkeypatch: pytest.MonkeyPatch) -> SetEnv:
    """Set a variable, in an environment without any of ours."""
    for name in Settings.model_fields | ClientSettings.model_fields:
        monkeypatch.delenv(f"BOATLOAD_{name.upper()}", raising=False)
    return monkeypatch.setenv


def test_nothing_configured_is_a_service_on_this_machine_alone() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert (settings.database_url, settings.storage_url) == (None, None)
    assert settings.objects_dir == settings.data_dir / "objects"
    assert settings.data_dir == default_data_dir()
    assert settings.pack_file_bytes == MIB
    assert not settings.allow_anonymous


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("HOST", "0.0.0.0", "0.0.0.0"),
        ("PORT", "0", 0),
        ("DATA_DIR", "/srv/boatload", Path("/srv/boatload")),
        ("DATABASE_URL", "postgresql://user@host/name", "postgresql://user@host/name"),
        ("DATABASE_URL", "postgres://host/name", "postgres://host/name"),
        ("STORAGE_URL", "file:///srv/objects", "file:///srv/objects"),
        ("POSTGRES_VERSION", "16", "16"),
        ("WORKER", "false", False),
        ("WORKER", "0", False),
        ("ALLOW_ANONYMOUS", "true", True),
        ("MAX_FILE_BYTES", "1", 1),
        ("PACK_FILE_BYTES", "0", 0),
        ("LEASE_SECONDS", "1.5", 1.5),
        ("PROCESSORS", "inspect", ("inspect",)),
        ("PROCESSORS", "image, inspect,words", ("image", "inspect", "words")),
        ("PROCESSORS", "", ("inspect", "image")),
        ("PROCESSOR_PROCESSES", "3", 3),
        ("RETRY_FIRST_SECONDS", "0", 0),
        ("RETRY_LONGEST_SECONDS", "0.5", 0.5),
        ("LOG_LEVEL", "debug", "debug"),
        ("PORT", "", 8000),
        ("CORS_ORIGINS", "https://a.example", ("https://a.example",)),
        ("CORS_ORIGINS", " https://a.example , http://localhost:3000,", ("https://a.example", "http://localhost:3000")),
        ("CORS_ORIGINS", "*", ("*",)),
        ("CORS_ORIGINS", "", ()),
        ("TRUST_PROXY", "true", True),
    ],
)
def test_each_variable_sets_its_field(setenv: SetEnv, name: str, text: str, value: object) -> None:
    setenv(f"BOATLOAD_{name}", text)
    assert getattr(load_settings(), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("CORS_ORIGINS", "a.example"),
        ("CORS_ORIGINS", "https://a.example/"),
        ("CORS_ORIGINS", "https://*.a.example"),
        ("CORS_ORIGINS", "https://a.example b"),
        ("TRUST_PROXY", "10.0.0.1"),
        ("PORT", "-1"),
        ("PORT", "80.5"),
        ("DATABASE_URL", "mysql://host/name"),
        ("DATABASE_URL", "host=localhost"),
        ("STORAGE_URL", "/srv/objects"),
        ("STORAGE_URL", "file://srv/objects"),
        ("STORAGE_URL", "ftp://host/folder"),
        ("POSTGRES_VERSION", "9"),
        ("WORKER", "perhaps"),
        ("MAX_FILE_BYTES", "0"),
        ("MAX_FILE_BYTES", "1 GB"),
        ("MAX_PARTS", "0"),
        ("PACK_FILE_BYTES", "-1"),
        ("PACK_FILE_BYTES", str(MIB + 1)),
        ("BUFFER_BYTES", "1000"),
        ("DATABASE_POOL_SIZE", "1"),
        ("BATCH_EXPIRES_SECONDS", "59"),
        ("BATCH_EXPIRES_SECONDS", "1000000000000"),
        ("SWEEP_INTERVAL_SECONDS", "inf"),
        ("SWEEP_INTERVAL_SECONDS", "1e15"),
        ("LEASE_SECONDS", "0"),
        ("LEASE_SECONDS", "nan"),
        ("RETRY_FIRST_SECONDS", "-1"),
        ("RETRY_LONGEST_SECONDS", "nan"),
        ("SWEEP_INTERVAL_SECONDS", "nan"),
        ("PROCESSORS", "inspect,inspect"),
        ("PROCESSOR_PROCESSES", "0"),
        ("PROCESSOR_SECONDS", "inf"),
        ("PROCESSOR_MEMORY_BYTES", "1000"),
        ("IMAGE_MAX_PIXELS", "0"),
        ("THUMBNAIL_PIXELS", "5000"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(setenv: SetEnv, name: str, text: str) -> None:
    setenv(f"BOATLOAD_{name}", text)
    with pytest.raises(SettingsError, match=f"^BOATLOAD_{name}: "):
        load_settings()


@pytest.mark.parametrize("name", ["BOATLOAD_PROT", "BOATLOAD_", "BOATLOAD_MAX_FILE_SIZE", "BOATLOAD_port"])
def test_an_unknown_variable_is_refused_by_its_name(setenv: SetEnv, name: str) -> None:
    setenv(name, "8000")
    with pytest.raises(SettingsError, match=f"^{name}: no such setting$"):
        load_settings()


def test_variables_of_others_are_no_concern_of_ours(setenv: SetEnv) -> None:
    setenv("BOATLOADER_PORT", "x")
    setenv("PORT", "x")
    assert load_settings().port == 8000


def test_all_that_is_wrong_is_said_at_once(setenv: SetEnv) -> None:
    setenv("BOATLOAD_PROT", "1")
    setenv("BOATLOAD_PORT", "x")
    setenv("BOATLOAD_LOG_LEVEL", "loud")
    with pytest.raises(SettingsError) as refused:
        load_settings(host="localhost", max_parts=0)
    named = [fault.split(":")[0] for fault in str(refused.value).split("; ")]
    assert sorted(named) == ["BOATLOAD_LOG_LEVEL", "BOATLOAD_MAX_PARTS", "BOATLOAD_PORT", "BOATLOAD_PROT"]


def test_a_wrong_value_is_not_repeated_for_it_may_be_a_secret(setenv: SetEnv) -> None:
    setenv("BOATLOAD_DATABASE_URL", "mysql://user:hunter2@host/name")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)


def test_flags_win_over_the_environment_and_those_not_given_do_not(setenv: SetEnv) -> None:
    setenv("BOATLOAD_PORT", "1111")
    setenv("BOATLOAD_HOST", "0.0.0.0")
    settings = load_settings(port=2222, host=None)
    assert (settings.port, settings.host) == (2222, "0.0.0.0")


@pytest.mark.parametrize(("name", "value"), [("port", 1), ("host", "0.0.0.0"), ("max_parts", 5)])
def test_settings_do_not_change_after_the_start(name: str, value: object) -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, name, value)


def test_a_data_dir_is_absolute_and_home_is_expanded(setenv: SetEnv, tmp_path: Path) -> None:
    setenv("HOME", str(tmp_path))
    setenv("BOATLOAD_DATA_DIR", "~/boatload")
    assert load_settings().data_dir == tmp_path / "boatload"
    assert load_settings(data_dir=Path("here")).data_dir == Path.cwd() / "here"


def test_the_local_store_follows_its_url(setenv: SetEnv) -> None:
    setenv("BOATLOAD_STORAGE_URL", "file:///srv/objects")
    assert load_settings().objects_dir == Path("/srv/objects")


def test_users_keep_data_in_their_own_folder_and_root_where_others_can_reach(
    setenv: SetEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/boatload")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    setenv("HOME", "/home/user")
    setenv("XDG_DATA_HOME", "")
    assert default_data_dir() == Path("/home/user/.local/share/boatload")
    setenv("XDG_DATA_HOME", "/data")
    assert default_data_dir() == Path("/data/boatload")


def test_what_push_reads_the_service_knows_and_the_other_way_round(setenv: SetEnv) -> None:
    assert load_client_settings().url == "http://127.0.0.1:8000"
    setenv("BOATLOAD_URL", "https://boatload.example/under/")
    setenv("BOATLOAD_TOKEN", "s3cret")
    setenv("BOATLOAD_PORT", "9")
    assert load_settings().port == 9
    settings = load_client_settings()
    assert settings.url == "https://boatload.example/under"
    assert settings.token is not None
    assert settings.token.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(settings)
    assert load_client_settings(url="http://other").url == "http://other"


@pytest.mark.parametrize(("name", "text"), [("URL", "ftp://x"), ("URL", "boatload.example"), ("TOKN", "x")])
def test_push_refuses_what_is_wrong_or_unknown(setenv: SetEnv, name: str, text: str) -> None:
    setenv(f"BOATLOAD_{name}", text)
    with pytest.raises(SettingsError, match=f"^BOATLOAD_{name}: "):
        load_client_settings()


def test_push_keeps_its_state_in_the_users_folder_for_that(setenv: SetEnv) -> None:
    setenv("HOME", "/home/user")
    setenv("XDG_STATE_HOME", "")
    assert default_state_dir() == Path("/home/user/.local/state/boatload")
    setenv("XDG_STATE_HOME", "/state")
    assert default_state_dir() == Path("/state/boatload")


@pytest.mark.parametrize("name", Settings.model_fields | ClientSettings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    field: Any = (Settings.model_fields | ClientSettings.model_fields)[name]
    described = [field.description, *(getattr(part, "description", None) for part in field.metadata)]
    assert any(text and text.endswith(".") for text in described)
