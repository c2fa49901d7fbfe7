"""The web application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from app.api import cors, problems
from app.api.audit_trail import AuditTrail
from app.api.authentication import Authentication
from app.api.body import large_bodies
from app.api.cursors import Cursors
from app.api.lanes import Lanes
from app.api.openapi import complete
from app.api.operations import Operations
from app.api.rate_limits import RateLimits
from app.api.request_log import RequestLog
from app.api.routes import (
    batches,
    content,
    docs,
    events,
    files,
    health,
    manifest,
    quota,
    thumbnails,
    tokens,
    tus,
    uploads,
    webhooks,
)
from app.api.tus_envelope import TusEnvelope
from app.api.webhook_events import router as webhook_events
from app.bootstrap import Services, running
from app.settings import Settings

_DESCRIPTION: Final = """
Open a batch, send any number of files into it, and read one exact account of what has arrived, what has been processed
and what has failed. Every error is an RFC 9457 problem.
"""
_ROUTERS: Final = tuple(
    module.router
    for module in (
        *(batches, events, manifest, tokens, files, uploads, content, thumbnails),
        *(tus, quota, webhooks, health, docs),
    )
)


def create_app(settings: Settings, dsn: str) -> FastAPI:
    """Return the application; it starts and ends its services with its lifespan.

    `dsn` names a database whose schema is up to date.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings, dsn) as services:
            app.state.services = services
            app.state.cursors = Cursors(services.cursor_key)
            yield

    app = FastAPI(
        title="Boatload",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    operations = Operations([route for one in _ROUTERS for route in one.routes if isinstance(route, APIRoute)])
    problems.install(app)
    app.add_middleware(Lanes, operations=operations)
    if limits := RateLimits.of(settings):
        app.add_middleware(RateLimits, limits=limits)
    app.add_middleware(AuditTrail)
    app.add_middleware(Authentication, operations=operations)
    # The one that is added last is the outermost: even an answer that the log writes is marked, and read by pages.
    app.add_middleware(RequestLog)
    cors.install(app, settings.cors_origins)
    app.add_middleware(TusEnvelope)
    app.state.large_bodies = large_bodies()
    app.state.trust_proxy = settings.trust_proxy
    docs.mount_assets(app)
    for one in _ROUTERS:
        app.include_router(one)

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = complete(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    description=app.description,
                    routes=app.routes,
                    webhooks=webhook_events.routes,
                    separate_input_output_schemas=False,
                )
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to change the document
    return app


def end_waiting(app: FastAPI) -> None:
    """End event streams and long polls, which would else keep the server from stopping. The lifespan has begun."""
    services: Services = app.state.services
    services.feed.close()


def _operation_id(route: APIRoute) -> str:
    return route.name
