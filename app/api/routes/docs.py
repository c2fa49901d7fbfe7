"""Swagger UI, served from here: it asks no other host for anything."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

router: Final = APIRouter(include_in_schema=False)

_ASSETS: Final = "/docs/assets"


def mount_assets(app: FastAPI) -> None:
    """Serve the files of Swagger UI that the package fastapi-offline carries."""
    spec = find_spec("fastapi_offline")
    assert spec is not None
    assert spec.origin is not None
    app.mount(_ASSETS, StaticFiles(directory=Path(spec.origin).parent / "static"), name="docs-assets")


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Show the API, to be tried out."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Boatload",
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon.png",
    )
