"""A real browser: Debian's chromium, without a window."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from playwright.async_api import Page, async_playwright

from tests.support.missing import lacking

FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@asynccontextmanager
async def new_page() -> AsyncIterator[Page]:
    """A page in a browser of its own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        lacking("there is no chromium here")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            yield await browser.new_page(viewport={"width": 1200, "height": 1600})
        finally:
            await browser.close()
