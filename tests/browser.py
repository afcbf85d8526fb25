"""Pages opened in a real, headless browser, which watches what no page of ours may do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def find_chromium() -> str | None:
    """Return the browser's path, from FOCALCAL_CHROMIUM or the search path."""
    return os.environ.get("FOCALCAL_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@dataclass
class Watched:
    """What a page did that it should not: messages on its console, errors, requests beyond its own file."""

    messages: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def check(self) -> None:
        assert not self.errors, self.errors
        assert not self.messages, self.messages
        assert not self.requests, self.requests


@dataclass
class Browser:
    """A running browser; `open` shows a file in a page of its own and checks it when done."""

    chromium: Any

    @contextmanager
    def open(
        self,
        path: Path,
        *,
        width: int = 1200,
        height: int = 900,
        dark: bool = False,
        **options: Any,
    ) -> Iterator[Any]:
        """Yield a playwright page that shows the file; afterwards assert that it was well behaved."""
        scheme = "dark" if dark else "light"
        context = self.chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        page, watched = context.new_page(), Watched()
        address = path.resolve().as_uri()
        page.on("console", lambda message: watched.messages.append(message.text))
        page.on("pageerror", lambda error: watched.errors.append(str(error)))

        def note(request: Any) -> None:
            if request.url.partition("#")[0] != address and not request.url.startswith(("data:", "blob:")):
                watched.requests.append(request.url)

        page.on("request", note)
        try:
            page.goto(address)
            yield page
            watched.check()
        finally:
            context.close()


def running() -> Iterator[Browser]:
    """Yield a browser, or skip where there is none."""
    pages = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium found: install it (apt-get install chromium) or set FOCALCAL_CHROMIUM")
    with pages.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield Browser(chromium)
        chromium.close()
