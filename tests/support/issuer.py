"""Somebody who makes JWTs: real keys, and a real HTTP server that gives out the public ones."""

import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

AUDIENCE: Final = "boatload"
SUBJECT: Final = "alice"


def new_key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def jwk_of(key: RSAPrivateKey, kid: str) -> dict[str, Any]:
    return jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"}


def pem_of(key: RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def by_hand(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    """A token as no library would make it."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


class Issuer:
    """The issuer at `url`. `keys` are given out by their ids; `asked` is how often; `is_down`: not given out.

    It answers only while `answers` is set.
    """

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self.key: Final = new_key()
        self.keys: dict[str, RSAPrivateKey] = {"one": self.key}
        self.asked = 0
        self.is_down = False
        self.answers: Final = threading.Event()
        self.answers.set()

    def claims(self, **changes: object) -> dict[str, Any]:
        """What a good token says, but for `changes`; None leaves a claim out."""
        now = int(time.time())
        good = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": SUBJECT,
            "iat": now,
            "exp": now + 300,
            "scope": "openid read write",
        }
        return {name: value for name, value in (good | changes).items() if value is not None}

    def token(
        self,
        *,
        kid: str | None = "one",
        key: Any = None,  # noqa: ANN401 - whatever is signed with
        algorithm: str = "RS256",
        headers: dict[str, Any] | None = None,
        **claims: object,
    ) -> str:
        """A token, a good one unless told otherwise."""
        named = {"kid": kid} if kid else {}
        return jwt.encode(self.claims(**claims), key or self.key, algorithm, headers=named | (headers or {}))


@contextmanager
def issuing() -> Iterator[Issuer]:
    """An issuer on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            issuer.asked += 1
            issuer.answers.wait(30)
            body = json.dumps({"keys": [jwk_of(key, kid) for kid, key in issuer.keys.items()]}).encode()
            self.send_response(500 if issuer.is_down else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = Issuer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, name="issuer", daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        issuer.answers.set()
        server.shutdown()
        thread.join()
        server.server_close()
