"""The explorer over predictions, in a browser: numbers as evaluate's, on every screen and by keyboard."""

import math

import numpy as np
import pytest

from focalcal import evaluate, explore, maps
from focalcal.explorer import write_page
from focalcal.explorer.embedding import embed
from focalcal.intervals.gap_interval import error_by_chance
from focalcal.intervals.resample import wilson_interval
from focalcal.rows import as_rows
from predictions import draw
from readings import like, number, place, shown, significant

HOSTILE = "</script><b>x</b><!-- \u2028 '\"&"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return explore(tmp_path_factory.mktemp("plain") / "explore.html")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A page over weighted predictions of six classes with a hostile name, and what it holds."""
    z, y = draw(1200, 6, temperature=2)
    weight = np.random.default_rng(0).integers(0, 3, 1200).astype(float)
    z[:3] *= 1000
    held = embed(as_rows(z, y, weight, "logits", None)[0], 900, 0)
    return write_page(tmp_path_factory.mktemp("own") / "explore.html", held, HOSTILE), held


class TestPredictions:
    @staticmethod
    def truth(held, temperature, gamma):
        log_probs = maps.map_scores(held.expanded(), "logits", temperature, gamma)
        return evaluate(held.codes, log_probs, held.weight.astype(float), input="logits", classes=range(6))

    @staticmethod
    def cells(page, row):
        return [cell.inner_text().split("\n") for cell in page.query_selector_all(f"#{row} td")]

    def check(self, page, row, held, temperature, gamma):
        truth = self.truth(held, temperature, gamma)
        shown_t, shown_g, nll, ece = self.cells(page, row)
        assert significant(shown_t[0], temperature)
        assert like(shown_g[0], gamma, 3)
        value, half = nll[0].split(" ±")[0], nll[-1].split("±")[-1]
        assert like(value.strip(), truth["nll"].value, 4)
        assert like(half.strip(), truth["nll"].high - truth["nll"].value, 4)
        assert like(ece[0].split(" by")[0].strip(), 100 * truth["ece"].value, 2)
        chance = 100 * error_by_chance(truth.bins)
        assert number(ece[-1].split("chance ")[-1]) == pytest.approx(chance, rel=0.02, abs=0.011)
        return truth

    @pytest.mark.parametrize("gamma", [-1, -0.5, 0, 0.5, 2, 10])
    def test_nll_and_ece_are_those_of_evaluate(self, browser, own, gamma):
        path, held = own
        with browser.open(path, reduced_motion="reduce") as page:
            place(page, "g", gamma)
            for log_temperature in (-1.0, 0.0, 0.695):
                place(page, "t", log_temperature)
                truth = self.check(page, "row-now", held, math.exp(log_temperature), gamma)
                found = page.evaluate(
                    "([t, g]) => predictions.judge(t, g)", [math.exp(log_temperature), gamma]
                )
                assert found["nll"] == pytest.approx(truth["nll"].value, rel=1e-9)
                assert found["ece"] == pytest.approx(truth["ece"].value, rel=1e-9, abs=1e-12)
                self.check_bins(found["bins"], truth.bins)
            assert number(shown(page, "data-accuracy")) == pytest.approx(
                100 * truth["accuracy"].value, abs=0.01
            )

    @staticmethod
    def check_bins(bins, truth):
        full = truth.weight > 0
        low, high = wilson_interval(truth.hit_rate[full], truth.effective_count[full])
        columns = {
            "share": truth.share[full],
            "confidence": truth.mean_confidence[full],
            "rate": truth.hit_rate[full],
            "low": low,
            "high": high,
        }
        for name, values in columns.items():
            np.testing.assert_allclose([b[name] for b in bins], values, rtol=1e-9, atol=1e-12)

    def test_the_buttons_set_what_python_fitted(self, browser, own):
        path, held = own
        fits = held.fits()
        with browser.open(path, reduced_motion="reduce") as page:
            for key, fit in (
                ("fts", fits["fts"]),
                ("ts", fits["ts"]),
                ("raw", {"temperature": 1, "gamma": 0}),
            ):
                page.click(f"#use-{key}")
                for row in ("row-now", f"row-{key}"):
                    self.check(page, row, held, fit["temperature"], fit["gamma"])
            best = number(self.cells(page, "row-fts")[2][0].split(" ±")[0])
            assert best <= number(self.cells(page, "row-ts")[2][0].split(" ±")[0])

    def test_the_drawing_is_of_the_bins(self, browser, own):
        path, held = own
        with browser.open(path, reduced_motion="reduce") as page:
            page.locator("#chart-reliability").scroll_into_view_if_needed()
            full = (self.truth(held, 1, 0).bins.weight > 0).sum()
            assert page.locator("#chart-reliability circle").count() == full
            assert page.locator("#chart-rows rect.bar").count() == full
            over = page.locator("#chart-reliability circle.over").count()
            place(page, "t", 1.5)
            assert page.locator("#chart-reliability circle.over").count() < over

    def test_the_bins_as_a_table(self, browser, own):
        path, held = own
        with browser.open(path, reduced_motion="reduce") as page:
            page.click("#bins summary")
            for temperature in (1.0, math.exp(1.5)):
                place(page, "t", math.log(temperature))
                bins = self.truth(held, temperature, 0).bins
                full = bins.weight > 0
                page.locator(f"#bins tr:nth-child({full.sum()})").wait_for()
                rows = [row.inner_text().split("\t") for row in page.query_selector_all("#bins tbody tr")]
                assert len(rows) == full.sum()
                columns = zip(rows, bins.edges[:-1][full], bins.mean_confidence[full], bins.hit_rate[full])
                for row, edge, confidence, rate in columns:
                    assert row[0].startswith(f"{edge:.2f}–")
                    assert like(row[2], 100 * confidence, 1)
                    assert like(row[3], 100 * rate, 1)

    def test_it_says_what_it_holds(self, browser, own):
        path, _ = own
        with browser.open(path) as page:
            assert page.text_content("#data-name") == HOSTILE
            said = shown(page, "data-what")
            assert "900 of 1,200 rows, drawn at random, of 6 classes" in said
            assert "the 6 logits" in said
            assert "weights" in said
            assert "contains data" in page.inner_text("#predictions")
            assert not page.is_visible("#invitation")
            assert page.locator("#data-name *").count() == 0

    def test_many_classes(self, browser, tmp_path):
        z, y = draw(600, 120)
        held = embed(as_rows(z, y, None, "logits", None)[0], 5000, 0)
        with browser.open(write_page(tmp_path / "e.html", held, None), reduced_motion="reduce") as page:
            for temperature, gamma in [(1, 0), (0.5, 2), (2.5, -0.9)]:
                found = page.evaluate("([t, g]) => predictions.judge(t, g)", [temperature, gamma])
                log_probs = maps.map_scores(held.expanded(), "logits", temperature, gamma)
                truth = evaluate(y, log_probs, input="logits", classes=range(120))
                assert found["nll"] == pytest.approx(truth["nll"].value, rel=1e-9)
                assert found["ece"] == pytest.approx(truth["ece"].value, rel=1e-9)
            assert "24 largest other classes, and 24 values for the other 95" in shown(page, "data-what")

    def test_without_predictions_it_says_how_to_add_them(self, browser, plain):
        with browser.open(plain) as page:
            assert page.is_visible("#invitation")
            assert not page.is_visible("#predictions")


SCREENS = {
    "light": {},
    "dark": {"dark": True},
    "phone": {"width": 360, "height": 740, "has_touch": True},
    "narrow": {"width": 320, "height": 640, "dark": True},
    "wide": {"width": 1920, "height": 1080},
}


class TestScreens:
    @pytest.mark.parametrize("screen", SCREENS)
    def test_it_fits_and_can_be_read(self, browser, own, screen):
        with browser.open(own[0], reduced_motion="reduce", **SCREENS[screen]) as page:
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            for chart in page.locator(".chart svg").all():
                assert chart.bounding_box()["height"] > 90
            sizes = page.evaluate(
                "[...document.querySelectorAll('.chart text')].map((t) => {"
                " const svg = t.ownerSVGElement; return parseFloat(getComputedStyle(t).fontSize) *"
                " svg.getBoundingClientRect().width / svg.viewBox.baseVal.width; })"
            )
            assert min(sizes) > 11

    @pytest.mark.parametrize("dark", [False, True])
    def test_text_stands_out_from_its_background(self, browser, own, dark):
        with browser.open(own[0], dark=dark) as page:
            colours = page.evaluate(
                "['--ink', '--soft', '--page', '--card', '--accent'].map((n) =>"
                " getComputedStyle(document.documentElement).getPropertyValue(n).trim())"
            )
            ink, soft, paper, card, accent = map(luminance, colours)
            for text in (ink, soft, accent):
                for ground in (paper, card):
                    low, high = sorted((text, ground))
                    assert (high + 0.05) / (low + 0.05) > 4.5

    def test_it_prints(self, browser, own):
        with browser.open(own[0], reduced_motion="reduce") as page:
            page.emulate_media(media="print")
            assert not page.is_visible("#gamma")
            assert page.is_visible("#gamma-value")
            assert page.is_visible("#chart-reliability svg")
            assert len(page.pdf(format="A4")) > 20_000

    def test_charts_follow_the_width_of_the_window(self, browser, plain):
        with browser.open(plain, width=1200) as page:
            page.set_viewport_size({"width": 400, "height": 800})
            width = "document.querySelector('#chart-loss svg').viewBox.baseVal.width"
            for _ in range(100):  # the page forbids what playwright's own waiting would do
                if page.evaluate(width) < 400:
                    break
                page.wait_for_timeout(20)
            assert page.evaluate(width) < 400
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def test_motion_ends_where_it_should_also_without_reduced_motion(self, browser, plain):
        with browser.open(plain, reduced_motion="no-preference") as page:
            page.click("[data-gamma='5']")
            page.locator("#gamma-value", has_text="5.00").wait_for()
            page.locator("[data-gamma='5'][aria-pressed=true]").wait_for()  # 4.998 is shown as 5.00 before
            page.click("#reset")
            page.locator("#gamma-value", has_text="2.00").wait_for()


class TestKeyboard:
    def test_tab_reaches_every_control_in_order(self, browser, own):
        with browser.open(own[0], reduced_motion="reduce") as page:
            seen = []
            for _ in range(60):
                page.keyboard.press("Tab")
                seen.append(page.evaluate("document.activeElement.id"))
            wanted = [
                "gamma",
                "q",
                "reset",
                "scale-nats",
                "temperature",
                "best",
                "a",
                "share",
                "t",
                "g",
                "use-fts",
            ]
            found = [name for name in seen if name in wanted]
            assert found[: len(wanted)] == wanted

    def test_arrows_move_the_sliders(self, browser, own):
        with browser.open(own[0], reduced_motion="reduce") as page:
            for name, output in [("gamma", "2.05"), ("q", "0.305"), ("a", "0.505"), ("share", "0.605")]:
                page.focus(f"#{name}")
                page.keyboard.press("ArrowRight")
                assert shown(page, f"{name}-value") == output
                assert page.get_attribute(f"#{name}", "aria-valuetext") == output
            page.focus("#gamma")
            page.keyboard.press("Home")
            assert shown(page, "gamma-value") == "−1.00"
            page.keyboard.press("End")
            assert shown(page, "gamma-value") == "10.00"
            page.focus("#g")
            page.keyboard.press("ArrowLeft")
            assert shown(page, "g-value") == "−0.05"

    def test_every_control_and_chart_has_a_name(self, browser, own):
        with browser.open(own[0], reduced_motion="reduce") as page:
            for control in page.locator("input").all():
                assert control.evaluate("(e) => e.labels.length") == 1
            for chart in page.locator("[role=img]").all():
                assert len(chart.get_attribute("aria-label")) > 20

    def test_reset_and_scale(self, browser, plain):
        with browser.open(plain, reduced_motion="reduce") as page:
            place(page, "gamma", 7)
            place(page, "q", 0.9)
            place(page, "temperature", 0.5)
            before = page.get_attribute("#chart-loss .line.focal", "d")
            page.check("#scale-rescaled")
            assert page.get_attribute("#chart-loss .line.focal", "d") != before
            page.click("#reset")
            assert (shown(page, "gamma-value"), shown(page, "q-value")) == ("2.00", "0.300")
            assert page.is_checked("#best")
            assert page.is_checked("#scale-nats")


def luminance(colour):
    colour = colour.lstrip("#")
    colour = "".join(c * 2 for c in colour) if len(colour) == 3 else colour
    channels = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
