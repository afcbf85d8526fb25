"""Make the pictures of pages and the figures in this folder again: python docs/screenshots.py [NAME …]."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from focalcal import explore, figures, open_scores
from focalcal.demo import write_tables
from focalcal.jobs import fit_file, report_file

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


def report(browser: Browser, folder: Path) -> None:
    """Write the report of a real network, and show its head in light and, on a phone, in dark."""
    table = DOCS.parent.parent / "shared" / "data" / "cifar100_densenet40_vd_a.npz"
    if not table.exists():
        print(f"report: left out, there is no {table.name}")
        return
    calibrator, _ = fit_file(table, where="val_mask")
    path = DOCS / "report.html"
    title = "CIFAR-100, DenseNet-40: before and after focal temperature scaling"
    report_file(table, path, calibrator=calibrator, where="not val_mask", title=title)
    with browser.open(path, height=1200) as page:
        end = page.locator("#by-class").bounding_box()
        _save(page, "report", {"x": 0, "y": 0, "width": 1200, "height": end["y"]}, full_page=True)
    with browser.open(path, width=390, height=1000, dark=True) as page:
        _save(page, "report_phone", {"x": 0, "y": 0, "width": 390, "height": 1500}, full_page=True)


def papers(browser: Browser, folder: Path) -> None:
    """Draw the three figures as SVG; they need no browser."""
    figures(DOCS, ["svg"])


def _save(page: Any, name: str, clip: dict[str, float], **options: Any) -> None:
    page.screenshot(path=DOCS / f"{name}.png", clip=clip, **options)


PICTURES: dict[str, Callable[[Browser, Path], None]] = {
    "explorer": explorer,
    "report": report,
    "papers": papers,
}


def main(names: list[str]) -> None:
    """Make the pictures of the given names, or all."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = Browser(playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"]))
        for name in names or PICTURES:
            PICTURES[name](browser, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
