"""CORS for the whole API: off unless origins are configured (Fetch standard, "CORS protocol")."""

from collections.abc import Sequence
from typing import Final

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

EXPOSED: Final = (
    "Allow",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Repr-Digest",
    "Retry-After",
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "X-Request-Id",
)
"""What a page's script may read of an answer, beyond what every page may."""
_MAX_AGE_SECONDS: Final = 24 * 3600


def install(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of `origins` call the API. No cookies are involved: credentials come in headers that scripts set."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
            max_age=_MAX_AGE_SECONDS,
        )
