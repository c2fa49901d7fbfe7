"""Where a message must not go: nothing is connected, and the log of the delivery says why."""

import ssl
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import pytest
from httpx_secure import SSRFProtectionError

from app.db.pool import Database
from app.domain.address import Address
from app.webhooks.sender import Sender, trusted
from tests.support.webhooks import answering, deliverer, ended, log_of, logged, receiving, sending

TLS: Final = Path(__file__).parents[1] / "support" / "tls"
NOT_PUBLIC: Final = "the name leads to an address that is not public; nothing was connected"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, size=4)
    yield database
    await database.close()


def served() -> ssl.SSLContext:
    """The receiver's side, with a certificate for `receiver.test` and `localhost`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    return context


def trusting() -> ssl.SSLContext:
    """The sender's side, which trusts that certificate alone."""
    return ssl.create_default_context(cafile=TLS / "certificate.pem")


def leading_to(*addresses: str) -> "Resolver":
    return Resolver([ip_address(address) for address in addresses])


class Resolver:
    """A name server of a test's own."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.addresses: Final = addresses
        self.asked: Final[list[str]] = []

    async def __call__(self, host: str, _port: int) -> Sequence[Address]:
        self.asked.append(host)
        return self.addresses


@pytest.mark.parametrize("postgres_version", ["18"], indirect=True)
async def test_a_message_that_must_not_be_sent_is_not_and_the_log_says_so(database: Database) -> None:
    async with receiving(tls=served()) as receiver, deliverer(database, allow_private=False):
        await ended(database, receiver.url("localhost"))
        row = await logged(database, 2)
    assert receiver.connections == 0
    assert {entry.get("error") for entry in log_of(row)[:2]} == {"The webhook URL names an address that is not public."}
    assert row["status"] == "pending", "it may be somebody's mistake, and is tried for a day like everything else"


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["93.184.215.14", "127.0.0.1"],
        ["127.0.0.1", "93.184.215.14"],
        ["169.254.169.254"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::1"],
        ["::ffff:127.0.0.1"],
    ],
)
async def test_one_address_that_is_not_public_spoils_the_name(addresses: list[str]) -> None:
    async with receiving(tls=served()) as receiver:
        sender = Sender(leading_to(*addresses), seconds=5, allow_private=False, tls=trusting())
        answer = await sender.send(receiver.url("receiver.test"), {}, b"{}")
    assert (answer.error, answer.status_code) == (NOT_PUBLIC, None)
    assert receiver.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "a.localhost"])
async def test_no_way_of_writing_loopback_gets_through(host: str) -> None:
    async with receiving(tls=served()) as receiver, sending(allow_private=False) as sender:
        answer = await sender.send(receiver.url(host), {}, b"{}")
    assert answer.error == "The webhook URL names an address that is not public."
    assert receiver.connections == 0


async def test_the_connection_itself_is_guarded_too() -> None:
    """Were the look-up wrong, the client still connects to no address that is not public, not even to try it."""
    async with receiving() as receiver:
        sender = Sender(leading_to(), seconds=5, allow_private=False, tls=trusted())
        async with sender.client(connect=5) as client:
            with pytest.raises(SSRFProtectionError):
                await client.post(receiver.url())
    assert receiver.connections == 0


async def test_what_a_redirect_names_is_not_asked() -> None:
    async with (
        receiving() as inside,
        receiving(answering(307, f"Location: {inside.url()}")) as outside,
        sending() as one,
    ):
        answer = await one.send(outside.url(), {}, b"{}")
    assert answer.status_code == 307
    assert inside.connections == 0


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy, receiving() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with sending() as one:
            answer = await one.send(receiver.url(), {}, b"{}")
    assert answer.status_code == 204
    assert proxy.connections == 0


async def test_tls_checks_the_name_though_the_address_is_what_is_connected_to() -> None:
    async with receiving(tls=served()) as receiver:
        named = Sender(leading_to("127.0.0.1"), seconds=5, allow_private=True, tls=trusting())
        assert (await named.send(receiver.url("receiver.test"), {}, b"{}")).status_code == 204
        assert receiver.messages[0].headers["host"] == f"receiver.test:{receiver.port}"
        refused = await named.send(receiver.url("other.test"), {}, b"{}")
        assert "CERTIFICATE_VERIFY_FAILED" in str(refused.error)
        unknown = Sender(leading_to("127.0.0.1"), seconds=5, allow_private=True, tls=trusted())
        assert "CERTIFICATE_VERIFY_FAILED" in str((await unknown.send(receiver.url("receiver.test"), {}, b"{}")).error)
    assert len(receiver.messages) == 1


async def test_every_address_of_a_name_is_tried_until_one_can_be_connected_to() -> None:
    async with receiving(answering(500)) as receiver:
        sender = Sender(leading_to("127.0.0.2", "127.0.0.1", "127.0.0.1"), seconds=5, allow_private=True, tls=trusted())
        answer = await sender.send(receiver.url("receiver.test"), {}, b"{}")
    assert answer.status_code == 500
    assert receiver.connections == 1, "what was answered is not asked again"


async def test_a_name_that_nobody_knows_is_an_error_of_the_attempt() -> None:
    async with sending(allow_private=False) as sender:
        for host in ("nobody.invalid", f"{'a' * 63}.{'b' * 63}.invalid"):
            answer = await sender.send(f"https://{host}/", {}, b"{}")
            assert str(answer.error).startswith("the name cannot be looked up: ")


async def test_cookies_are_not_kept() -> None:
    async with receiving(answering(500, "Set-Cookie: a=b"), answering(204)) as receiver, sending() as sender:
        await sender.send(receiver.url(), {}, b"{}")
        await sender.send(receiver.url(), {}, b"{}")
    assert "cookie" not in receiver.messages[1].headers
