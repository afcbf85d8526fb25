"""The report in a real browser: light, dark, on a phone and on paper, by keyboard, with hostile names."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from focalcal import FocalTemperatureScaling, evaluate, report
from focalcal.calibrators.temperature.profile import profile
from focalcal.rows import as_rows
from focalcal.verdicts.appraisal import Segment
from predictions import draw

HOSTILE = [
    "</script><script>document.title='run'</script>",
    "<img src=x onerror=\"document.title='run'\">",
    "\u202egnp.exe",
    "a\nb",
    "=1+1",
    "long" * 300,
    "😀 smile",
    "\"quoted' &amp;",
]


@pytest.fixture(scope="module")
def data():
    z, y = draw(2400, 60, temperature=2.0)
    calibrator = FocalTemperatureScaling().fit(z[:1200], y[:1200])
    z, y = z[1200:], y[1200:]
    pair = {"before": evaluate(y, z, input="logits")}
    pair["after"] = evaluate(y, calibrator.transform(z), input="logits")
    names = [*HOSTILE, *(f"class {k}" for k in range(8, 60))]
    segments = [Segment(f"{HOSTILE[k % 8]} {k}", dict(pair)) for k in range(20)]
    found = profile(as_rows(z, y, None, "logits", None)[0], calibrator)
    return pair, {
        "calibrator": calibrator,
        "classes": names,
        "segments": segments,
        "by": HOSTILE[1],
        "title": HOSTILE[0],
        "notes": HOSTILE[:2],
        "profile": found,
    }


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    pair, options = data
    return report(tmp_path_factory.mktemp("page") / "report.html", pair, **options)


VIEWS = {
    "light": {},
    "dark": {"dark": True},
    "phone": {"width": 360, "height": 640, "has_touch": True, "is_mobile": True},
    "without script": {"java_script_enabled": False},
}


@pytest.mark.parametrize("view", VIEWS)
def test_it_shows_without_scrolling_sideways(browser, path, view):
    with browser.open(path, **VIEWS[view]) as page:
        width, window, height = (
            [page.locator("html").bounding_box()["width"], VIEWS[view].get("width", 1200), 4000]
            if view == "without script"
            else page.evaluate(
                "[document.documentElement.scrollWidth, innerWidth, document.documentElement.scrollHeight]"
            )
        )
        assert width <= window
        assert height > 3000
        assert page.locator(".verdict").is_visible()
        for drawing in page.locator("figure > svg").all():
            box = drawing.bounding_box()
            assert box["width"] > 150
            assert box["height"] > 150
        assert page.locator("#classes tbody tr").count() == 60
        assert page.locator("#classes thead").is_visible()


def test_dark_is_dark_and_light_is_light(browser, path):
    shades = []
    for dark in (False, True):
        with browser.open(path, dark=dark) as page:
            style = page.evaluate(
                "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
                " getComputedStyle(document.querySelector('svg text.tick')).fill]"
            )
            shades.append([int(colour[4:].split(",")[0].strip("() ")) for colour in style])
    (page_light, ink_light, tick_light), (page_dark, ink_dark, tick_dark) = shades
    assert page_light > 240
    assert page_dark < 40
    assert ink_light < 60
    assert ink_dark > 200
    assert abs(tick_light - page_light) > 100
    assert abs(tick_dark - page_dark) > 100


def test_hostile_names_are_shown_as_text_and_run_nothing(browser, path):
    with browser.open(path) as page:
        assert page.title() == " ".join(HOSTILE[0].split())
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 2
        names = page.locator("#classes tbody bdi").all_text_contents()
        for name in (HOSTILE[0], HOSTILE[1], HOSTILE[2], "a b", "=1+1", HOSTILE[6], HOSTILE[7]):
            assert name in names
        assert ("long" * 300)[:79] + "…" in names


def test_the_embedded_bins_are_pythons(browser, path, data):
    with browser.open(path) as page:
        document = json.loads(page.locator("#focalcal-bins").text_content())
    for name, evaluation in data[0].items():
        assert document[name]["top"] == evaluation.bins.to_dict()
        assert document[name]["classes"][0]["class"] == HOSTILE[0]


@pytest.mark.parametrize("script", [True, False])
def test_the_csv_downloads_and_holds_the_bins(browser, path, data, tmp_path, script):
    with browser.open(path, java_script_enabled=script, accept_downloads=True) as page:
        with page.expect_download() as waiting:
            page.get_by_role("link", name="Download the bins as CSV").click()
        assert waiting.value.suggested_filename == "bins.csv"
        waiting.value.save_as(tmp_path / "bins.csv")
    with open(tmp_path / "bins.csv", encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    for name, evaluation in data[0].items():
        top = [line for line in lines if line["evaluation"] == name and not line["class"]]
        full = evaluation.bins.count > 0
        for column in ("count", "confidence", "hit"):
            read = np.array([float(line[column]) for line in top])
            np.testing.assert_array_equal(read, getattr(evaluation.bins, column)[full])
    assert {"'=1+1", HOSTILE[0], "a\nb"} <= {line["class"] for line in lines}


def column(page, number, table="classes"):
    return page.eval_on_selector_all(
        f"#{table} tbody tr:not([hidden])",
        f"rows => rows.map(row => Number(row.cells[{number}].dataset.sort))",
    )


def test_tables_sort_by_keyboard(browser, path):
    with browser.open(path) as page:
        header = page.locator("#classes thead th").nth(1)
        assert header.get_attribute("aria-sort") is None
        header.get_by_role("button").focus()
        page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == "descending"
        rows = column(page, 1)
        assert rows == sorted(rows, reverse=True)
        page.keyboard.press("Space")
        assert header.get_attribute("aria-sort") == "ascending"
        assert column(page, 1) == sorted(rows)
        name = page.locator("#classes thead th").nth(0)
        name.get_by_role("button").press("Enter")
        assert name.get_attribute("aria-sort") == "ascending"
        assert header.get_attribute("aria-sort") is None
        shown = [
            text for text in page.locator("#classes tbody bdi").all_text_contents() if text[:6] == "class "
        ]
        assert shown == [f"class {k}" for k in range(8, 60)]  # 9 before 10
        page.locator("#segments thead button").nth(3).press("Enter")
        errors = column(page, 3, "segments")
        assert errors == sorted(errors, reverse=True)


def test_classes_are_found_by_typing(browser, path):
    with browser.open(path) as page:
        page.get_by_label("Find a class").focus()
        page.keyboard.type("CLASS 1")
        assert len(column(page, 1)) == 10
        assert page.locator("output[data-found=classes]").text_content() == "10 of 60"
        page.keyboard.type("7")
        assert page.locator("#classes tbody tr:visible bdi").all_text_contents() == ["class 17"]
        page.get_by_label("Find a class").fill("😀")
        assert len(column(page, 1)) == 1
        page.get_by_label("Find a class").fill("")
        assert len(column(page, 1)) == 60
        assert page.locator("output[data-found=classes]").text_content() == ""
        assert len(column(page, 1, "segments")) == 20


def test_without_a_script_there_is_nothing_that_needs_one(browser, path):
    with browser.open(path, java_script_enabled=False) as page:
        assert not page.get_by_label("Find a class").is_visible()
        assert page.locator("thead button").count() == 0
        page.locator("summary").first.click()
        assert page.locator("details table").first.is_visible()


def test_the_keyboard_reaches_everything_and_skips_to_the_numbers(browser, path):
    with browser.open(path) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the numbers"
        assert page.locator(".skip").bounding_box()["x"] >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        reached = set()
        for _ in range(80):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate(
                    "document.activeElement.closest('[id], summary, a, button, input, .scroll')?.tagName"
                )
            )
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none" or page.evaluate("document.activeElement === document.body")
        assert {"A", "BUTTON", "INPUT", "SUMMARY"} <= reached


def test_a_folded_table_opens_by_keyboard(browser, path):
    with browser.open(path) as page:
        page.locator("summary").first.press("Enter")
        assert page.locator("details[open] table").first.is_visible()


def test_on_paper(browser, path):
    with browser.open(path, width=700) as page:
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not page.locator("nav").is_visible()
        assert not page.get_by_label("Find a class").is_visible()
        assert page.locator("#classes tbody tr:visible").count() == 40
        assert page.get_by_text("Printed: the first 40 of 60.").is_visible()
        # all of the table's printed rows are on the page, not in a window that scrolls
        region, table = (
            page.evaluate(f"document.querySelector('{which}').getBoundingClientRect().height")
            for which in (".scroll:has(#classes)", "#classes")
        )
        assert region == pytest.approx(table, abs=2)
        page.emulate_media(media=None)
        assert len(page.pdf(format="A4")) > 20_000


def test_folded_measures_are_printed(browser, data, tmp_path):
    pair, _ = data
    extra = {f"new_{i}": pair["after"]["ece"] for i in range(4)}
    more = {name: type(e)(e.metrics | extra, e.n, e.n_classes, e.bins) for name, e in pair.items()}
    path = report(tmp_path / "r.html", more)
    with browser.open(path) as page:
        assert not page.get_by_text("new_3").is_visible()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.get_by_text("new_3").is_visible()
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert not page.get_by_text("new_3").is_visible()


def test_a_thousand_classes_are_searched(browser, tmp_path):
    z, y = draw(1500, 1000, temperature=2.0)
    names = [f"class {k}" for k in range(1000)]
    path = report(tmp_path / "r.html", {"m": evaluate(y, z, input="logits")}, classes=names)
    with browser.open(path) as page:
        page.get_by_label("Find a class").type("class 77")
        assert len(column(page, 1)) == 11
        page.locator("#classes thead button").nth(2).press("Enter")
        errors = column(page, 2)
        assert errors == sorted(errors, reverse=True)
