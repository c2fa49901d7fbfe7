"""Upload clients from npm, installed as the lock file says, outside of the sources."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from tests.support.missing import lacking

SOURCES: Final = Path(__file__).parents[1] / "clients"
INSTALL_SECONDS: Final = 120
RUN_SECONDS: Final = 60

Happened = dict[str, Any]


def install(folder: Path) -> Path:
    """Install the clients in `folder`, with `bundle.js` for a browser, and return it."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            lacking(f"there is no {tool} here")
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    for command in (["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], ["node", "bundle.mjs"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return folder


def run_tus(folder: Path, **job: object) -> Happened:
    """Run tus-js-client in Node: see tus.mjs for what a job may say, and what comes back."""
    command = ["node", "tus.mjs", json.dumps(job)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    happened: Happened = json.loads(done.stdout.splitlines()[-1])
    return happened


class _Pages(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Serve the bundle, and at every other path a page that loads it."""
        if self.path == "/bundle.js":
            super().do_GET()
            return
        page = b"<!doctype html><meta charset=utf-8><link rel=icon href='data:,'><script src=/bundle.js></script>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


@contextmanager
def pages(folder: Path) -> Iterator[str]:
    """Serve a page with the clients in it on an origin of its own, which is what this yields."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Pages, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, name="pages", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
