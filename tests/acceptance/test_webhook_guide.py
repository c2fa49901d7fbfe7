"""The receiver that docs/webhooks.md shows, run as it stands there."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.support.postgres import Servers
from tests.support.server import ROOT, Boatload, environment, serving


@pytest.fixture
def open_server(postgres_servers: Servers) -> Iterator[Boatload]:
    server = postgres_servers.get("18")
    with serving(database_url=server.create_migrated(), webhook_allow_private="true") as running:
        yield running


@contextmanager
def receiver(folder: Path, secret: str, port: int) -> Iterator[Path]:
    """Run the guide's program; what it prints is in the file."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "webhooks.md").read_text(), re.DOTALL)
    script, said = folder / "receiver.py", folder / "said"
    script.write_text(program)
    variables = environment({}) | {"WEBHOOK_SECRET": secret, "PORT": str(port)}
    with said.open("w") as output:
        process = subprocess.Popen([sys.executable, script], env=variables, stdout=output, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield said
    finally:
        process.kill()
        process.wait()


def attempts(client: httpx.Client, count: int) -> list[int]:
    """The status codes of the only message, once there are so many."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        items = client.get("/v1/webhooks/deliveries").json()["items"]
        codes = [one["status_code"] for shown in items for one in shown["attempts"] if one["status_code"]]
        if len(codes) >= count:
            return codes
        time.sleep(0.05)
    raise TimeoutError


def test_the_guides_receiver_verifies_our_messages_and_no_others(open_server: Boatload, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open_server.client() as client:
        secret = client.post("/v1/webhooks", json={"url": f"http://127.0.0.1:{port}/hook"}).json()["secret"]
        with receiver(tmp_path, "whsec_" + "A" * 44, port):
            batch_id = client.post("/v1/uploads", files={"file": ("a.txt", b"content")}).json()["batch"]["id"]
            assert attempts(client, 1)[0] == 400
        with receiver(tmp_path, secret, port) as said:
            (shown,) = client.get("/v1/webhooks/deliveries").json()["items"]
            client.post(f"/v1/webhooks/deliveries/{shown['id']}/redeliver")
            assert attempts(client, 2)[-1] == 204
            client.post(f"/v1/webhooks/deliveries/{shown['id']}/redeliver")
            assert attempts(client, 3)[-1] == 204
            assert said.read_text().splitlines() == [f"batch.completed {batch_id} 1"]
