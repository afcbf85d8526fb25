"""Make the pictures of pages and the figures in this folder again: python docs/screenshots.py [NAME …]."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from focalcal import explore, figures, open_scores
from focalcal.demo import write_tables

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from browser import Browser, find_chromium  # noqa: E402


def explorer(browser: Browser, folder: Path) -> None:
    """Show the explorer's head and first figure, and the demo's predictions with the best T and γ."""
    _, test = write_tables(folder)
    columns = {"logits": "logit_*", "label": "label"} if test.endswith(".parquet") else {}
    page_file = explore(folder / "explore.html", open_scores(test, **columns), name="test.parquet")
    with browser.open(page_file, height=1500, reduced_motion="reduce") as page:
        page.click("#use-fts")
        page.evaluate("scrollTo(0, 0)")
        end = page.locator("#loss").bounding_box()
        _save(page, "explore", {"x": 0, "y": 0, "width": 1200, "height": end["y"] + end["height"] + 24})
        page.locator("#predictions").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('#predictions').scrollIntoView()")
        own = page.locator("#predictions").bounding_box()
        _save(
            page, "explore_predictions", {"x": 0, "y": own["y"], "width": 1200, "height": own["height"] + 24}
        )


def papers(browser: Browser, folder: Path) -> None:
    """Draw the three figures as SVG; they need no browser."""
    figures(DOCS, ["svg"])


def _save(page: Any, name: str, clip: dict[str, float]) -> None:
    page.screenshot(path=DOCS / f"{name}.png", clip=clip)


PICTURES: dict[str, Callable[[Browser, Path], None]] = {"explorer": explorer, "papers": papers}


def main(names: list[str]) -> None:
    """Make the pictures of the given names, or all."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = Browser(playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"]))
        for name in names or PICTURES:
            PICTURES[name](browser, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
