"""Webhooks without I/O: which URLs and addresses, which events, which secrets."""

import json
from datetime import timedelta
from ipaddress import ip_address

import pytest
from standardwebhooks import Webhook

from app.api import schemas
from app.domain.address import is_public
from app.domain.batch import BatchStatus, Tally, advance, cancel
from app.domain.errors import InvalidWebhookUrlError, WebhookLimitError
from app.domain.webhook import (
    MAX_OLDER_SECRETS,
    EventType,
    SigningSecrets,
    event_of,
    new_secret,
    payload_of,
)
from app.domain.webhook_url import parse_webhook_url
from tests.support.values import NOW, make_batch

LATER = NOW + timedelta(minutes=1)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "192.0.1.1", "2606:4700::1111", "2a00:1450:4001::1", "64:ff9b::808:808"]
)
def test_an_address_on_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1"),
        *("192.0.0.8", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "224.0.0.1", "239.1.1.1"),
        *("240.0.0.1", "255.255.255.255", "168.63.129.16", "100.100.100.200"),
        *(
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "fe80::1",
            "fe80::1%eth0",
            "fec0::1",
            "fd00::1",
        ),
        *("ff02::1", "ff0e::1", "2001::1", "2001:db8::1", "2002:7f00:1::1", "2002:808:808::1", "3fff::1", "100::1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::c000:8", "64:ff9b:1::808:808", "5f00::1", "4000::1"),
        "fd00:ec2::254",
    ],
)
def test_every_other_address_is_not(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    ("text", "receiver", "authority", "target"),
    [
        ("https://Example.com", "example.com:443", "example.com", "/"),
        ("HTTPS://example.com./", "example.com:443", "example.com", "/"),
        ("https://example.com:443/a/b%20c", "example.com:443", "example.com", "/a/b%20c"),
        ("https://example.com:8443/a?b=c&d=[1]", "example.com:8443", "example.com:8443", "/a?b=c&d=[1]"),
        ("https://example.com?token=a/b", "example.com:443", "example.com", "/?token=a/b"),
        ("https://a_b.xn--bcher-kva.example/", "a_b.xn--bcher-kva.example:443", "a_b.xn--bcher-kva.example", "/"),
        ("https://8.8.8.8/", "8.8.8.8:443", "8.8.8.8", "/"),
        ("https://[2606:4700::1111]:444/", "[2606:4700::1111]:444", "[2606:4700::1111]:444", "/"),
        ("https://localhost.example.com/", "localhost.example.com:443", "localhost.example.com", "/"),
    ],
)
def test_a_url_is_taken_apart(text: str, receiver: str, authority: str, target: str) -> None:
    url = parse_webhook_url(text, allow_private=False)
    assert (url.receiver, url.authority, url.target) == (receiver, authority, target)


REFUSED = [
    *("", "x", "//example.com/", "example.com", "https:/example.com", "https:example.com", "https://", "https:///a"),
    *("ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "javascript://example.com/"),
    *("https://user@example.com/", "https://user:s3cret@example.com/", "https://@example.com/", "https://a@b@c.com/"),
    *("https://example.com:0/", "https://example.com:65536/", "https://example.com:/", "https://example.com:+1/"),
    *("https://example.com/#fragment", "https://example.com/a b", "https://example.com/\n", "https://exa\nmple.com/"),
    *("https://example.com\\@127.0.0.1/", "https://example.com/\x00", "https://bücher.example/", "https://a..b/"),
    *("https://.example.com/", "https://exam%70le.com/", f"https://{'a' * 64}.com/", f"https://{'a.' * 127}com/"),
    *("https://[::g]/", "https://[1.2.3.4]/", "https://[fe80::1%25eth0]/", "https://[2606:4700::1111/", "https://::1/"),
    f"https://example.com/{'x' * 2048}",
    " https://example.com/",
]
PRIVATE = [
    *("https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/"),
    *("https://0/", "https://10.0.0.1/", "https://169.254.169.254/latest/meta-data", "https://192.168.0.1:8443/"),
    *("https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[fd00:ec2::254]/", "https://[64:ff9b::7f00:1]/"),
    *("https://localhost/", "https://LOCALHOST./", "https://a.localhost/", "https://127.0.0.1./"),
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_plain_url_is_refused_even_where_private_ones_are_allowed(text: str) -> None:
    for allow_private in (False, True):
        with pytest.raises(InvalidWebhookUrlError) as refusal:
            parse_webhook_url(text, allow_private=allow_private)
        assert "s3cret" not in refusal.value.detail


@pytest.mark.parametrize("text", [*PRIVATE, "http://example.com/"])
def test_private_addresses_and_http_are_for_development(text: str) -> None:
    with pytest.raises(InvalidWebhookUrlError):
        parse_webhook_url(text, allow_private=False)
    parse_webhook_url(text, allow_private=True)


def test_the_change_that_ends_a_batch_is_an_event_and_no_other() -> None:
    batch = make_batch()
    assert event_of(batch) is None
    added = advance(batch, Tally(pending=2), now=LATER)
    assert event_of(added) is None
    done = advance(added, Tally(pending=-2, successful=1, failed=1), now=LATER, seal=True)
    assert event_of(done) is EventType.COMPLETED
    assert event_of(advance(done, Tally(failed=-1), now=LATER + timedelta(microseconds=1))) is None
    assert event_of(advance(added, Tally(pending=-2, failed=2), now=LATER, seal=True)) is EventType.FAILED
    assert event_of(cancel(added, Tally(pending=-2, cancelled=2), now=LATER)) is EventType.CANCELLED


def test_the_payload_is_the_batch_of_the_api() -> None:
    for metadata, label, count in (({}, None, 3), ({"ä": [None, 1.5, "\u2028"]}, "Größe \N{PILE OF POO}", 7)):
        batch = advance(
            make_batch(metadata=metadata, label=label, started_at=NOW + timedelta(microseconds=120)),
            Tally(successful=1, failed=count - 1, total_bytes=2**40),
            now=LATER,
            seal=True,
        )
        assert batch.status is BatchStatus.COMPLETED
        shown = json.loads(schemas.BATCH.dump_json(schemas.batch_out(batch)))
        assert json.loads(payload_of(batch, EventType.COMPLETED)) == {
            "type": "batch.completed",
            "timestamp": shown["completed_at"],
            "data": shown,
        }


def test_a_secret_is_what_the_specification_wants_and_new_each_time() -> None:
    secret = new_secret(lambda size: bytes(range(size)))
    assert secret.startswith("whsec_")
    signature = Webhook(secret).sign("a", NOW, "{}")
    assert signature == Webhook(bytes(range(32))).sign("a", NOW, "{}")


def test_replaced_secrets_live_on_for_a_day_and_none_is_cut_short() -> None:
    secrets = SigningSecrets("s0")
    for number in range(MAX_OLDER_SECRETS):
        secrets = secrets.rotated(f"s{number + 1}", NOW)
    assert secrets.usable(NOW) == [f"s{number}" for number in range(MAX_OLDER_SECRETS, -1, -1)]
    with pytest.raises(WebhookLimitError):
        secrets.rotated("more", NOW + timedelta(hours=23))
    over = NOW + timedelta(days=1)
    assert secrets.usable(over) == [secrets.current]
    assert secrets.rotated("fresh", over).usable(over) == ["fresh", secrets.current]


def test_no_secret_is_in_the_text_of_its_holder() -> None:
    assert "s3cret" not in repr(SigningSecrets("s3cret").rotated("s3cret2", NOW))
