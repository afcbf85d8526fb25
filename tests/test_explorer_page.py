"""The explorer's figures in a browser: what they show is what the library computes."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from focalcal import (
    binary_focal_map,
    drawings,
    explore,
    focal_loss,
    focal_map,
    maps,
    proper_focal_loss,
    raising_threshold,
    temperature_bounds,
)
from readings import like, number, place, shown, significant

GAMMAS = [-1, -0.95, -0.5, 0, 0.5, 2, 10]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return explore(tmp_path_factory.mktemp("plain") / "explore.html")


@pytest.mark.parametrize("q", [0.005, 0.3, 0.9])
def test_the_figures_of_two_classes_show_what_python_computes(browser, plain, q):
    s = float(logit(q))
    scores = np.log([[1 - q, q]])
    with browser.open(plain, reduced_motion="reduce") as page:
        place(page, "q", q)
        for gamma in GAMMAS:
            place(page, "gamma", gamma)
            psi = float(binary_focal_map(s, gamma))
            loss = float(focal_loss(scores, [1], gamma)[0])
            truth = {
                "cross-entropy": -math.log(q),
                "focal-loss": loss,
                "proper-loss": float(proper_focal_loss(scores, [1], gamma)[0]),
                "mapped-loss": loss,
                "implied": s / psi,
                "scale": 2.0**gamma,
            }
            if gamma > -1:
                truth["bound-low"], truth["bound-high"] = temperature_bounds(gamma)
            for name, value in truth.items():
                assert significant(shown(page, name), value), (gamma, name)
            assert significant(shown(page, "mapped"), expit(psi))
            assert significant(shown(page, "twin-map"), float(np.exp(focal_map(scores, gamma))[0, 1]))
            assert like(shown(page, "odds-mapped"), psi, 3)
            temperature, difference = drawings.best_temperature(gamma)
            assert number(shown(page, "temperature-value")) == pytest.approx(temperature, abs=1.01e-3)
            assert number(shown(page, "worst")) == pytest.approx(difference, rel=0.02, abs=2e-6)
            assert number(shown(page, "twin-temperature")) == pytest.approx(expit(s / temperature), abs=5e-4)


def test_at_minus_one_there_are_no_bounds(browser, plain):
    with browser.open(plain, reduced_motion="reduce") as page:
        place(page, "gamma", -1)
        assert (shown(page, "bound-low"), shown(page, "bound-high")) == ("none", "none")
        place(page, "gamma", -0.5)
        assert "changed places" in shown(page, "swap")
        place(page, "gamma", 1)
        assert shown(page, "swap") == ""


def test_the_slope_at_one_half_is_that_of_the_proper_part(browser, plain):
    step = 1e-5
    with browser.open(plain, reduced_motion="reduce") as page:
        for gamma in (-0.5, 1, 2, 3):
            place(page, "gamma", gamma)
            p = np.log([[0.5 + step, 0.5 - step], [0.5 - step, 0.5 + step]])
            low, high = proper_focal_loss(p, [1, 1], gamma)
            ratio = (high - low) / (2 * step) / -2
            assert number(shown(page, "slope").split(" times")[0]) == pytest.approx(ratio, rel=2e-3)
            assert shown(page, "slope-word") == ("steeper" if ratio > 1 else "flatter")


def test_a_temperature_of_ones_own(browser, plain):
    with browser.open(plain, reduced_motion="reduce") as page:
        place(page, "q", 0.8)
        place(page, "temperature", -0.5)
        assert not page.is_checked("#best")
        temperature = math.exp(-0.5)
        truth = expit(logit(0.8) / temperature)
        assert significant(shown(page, "twin-temperature"), truth)
        difference = expit(float(binary_focal_map(logit(0.8), 2))) - truth
        assert significant(shown(page, "twin-difference"), difference)
        place(page, "gamma", 1)
        assert like(shown(page, "temperature-value"), temperature, 3)
        page.check("#best")
        assert number(shown(page, "temperature-value")) == pytest.approx(0.5615, abs=1e-3)


def test_three_classes(browser, plain):
    with browser.open(plain, reduced_motion="reduce") as page:
        for gamma in GAMMAS:
            check_three_classes(page, gamma)


def check_three_classes(page, gamma):
    place(page, "gamma", gamma)
    for a, share in [(0.5, 0.6), (0.005, 0.995), (0.99, 0.5), (0.335, 0.5)]:
        place(page, "a", a)
        place(page, "share", share)
        q = np.array([a, (1 - a) * share, (1 - a) * (1 - share)])
        phi = np.exp(focal_map(np.log(q[None]), gamma))[0]
        for k, name in enumerate("ABC"):
            assert like(shown(page, f"q-{name}"), q[k], 4)
            assert like(shown(page, f"phi-{name}"), phi[k], 4)
        if phi.max() - q.max() > 1e-3:
            assert "rises to" in shown(page, "top-change")
        elif phi.max() - q.max() < -1e-3:
            assert "falls to" in shown(page, "top-change")
    if gamma > 0:
        assert f"= {raising_threshold(gamma):.3f} or more" in shown(page, "threshold")
    else:
        assert "τ" not in shown(page, "threshold")


def test_the_point_of_the_triangle_follows_the_pointer(browser, plain):
    with browser.open(plain, reduced_motion="reduce") as page:
        page.locator("#chart-simplex").scroll_into_view_if_needed()
        box = page.locator("#chart-simplex .origin").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 30, y - 20, steps=3)
        page.mouse.move(x, y, steps=3)
        page.mouse.up()
        assert like(shown(page, "q-A"), 0.5, 2)
        assert like(shown(page, "q-B"), 0.3, 2)
        chart = page.locator("#chart-simplex").bounding_box()
        page.mouse.click(chart["x"] + 3, chart["y"] + 3)  # outside the triangle
        values = [number(shown(page, f"q-{name}")) for name in "ABC"]
        assert min(values) > 0
        assert sum(values) == pytest.approx(1, abs=2e-4)


def test_a_pointer_over_a_chart_reads_it_there(browser, plain):
    with browser.open(plain, reduced_motion="reduce") as page:
        page.locator("#chart-map").scroll_into_view_if_needed()
        box = page.locator("#chart-map").bounding_box()
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * 0.6, middle)
        read = number(page.inner_text("#loss caption [data-show=q]"))
        assert 0.5 < read < 0.6
        assert shown(page, "q-value") == "0.300"
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] - 60)
        assert page.inner_text("#loss caption [data-show=q]") == "0.300"
        page.mouse.click(box["x"] + box["width"] * 0.6, middle)
        assert number(shown(page, "q-value")) == pytest.approx(read, abs=0.003)


class TestMaths:
    """The page's own functions, also where probabilities have saturated."""

    ROWS = [
        [0.0, -1000.0, -1000.5],
        [0.0, -5000.0, -10_000.0],
        [0.0, -1e-3, -2e-3],
        [3.0, 3.0, -700.0],
        [1e4, 0.0, 1.0, 2.0, -3.0],
        [0.0, -40.0, -41.0],
        [0.0, -4.6, -9.0, -30.0],
        [-0.7, -0.7],
        [0.0, -math.inf, -2.0],
    ]

    def test_the_map_of_a_row(self, browser, plain):
        call = "([z, g, t]) => maths.focalMap(z.map(Number), g, t).map(String)"
        settings = [(g, t) for g in (-1, -0.999, -0.5, 0, 0.5, 2, 10, 100) for t in (0.3, 1, 4)]
        with browser.open(plain) as page:
            for gamma, temperature in settings:
                for row in self.ROWS:
                    texts = [str(v).replace("inf", "Infinity") for v in row]
                    found = page.evaluate(call, [texts, gamma, temperature])
                    truth = maps.map_scores(np.array([row]), "logits", temperature, gamma)[0]
                    values = [float(v.replace("Infinity", "inf")) for v in found]
                    np.testing.assert_allclose(values, truth, rtol=1e-9, atol=1e-300)

    def test_two_classes(self, browser, plain):
        with browser.open(plain) as page:
            for gamma in (-1, -0.999, -0.5, 0.5, 2, 10):
                self.check_two_classes(page, gamma)

    @staticmethod
    def check_two_classes(page, gamma):
        odds = [-2000.0, -30.0, -3.0, -1e-6, 1e-6, 0.4, 5.0, 36.0, 1500.0]
        scores = np.stack([np.zeros(len(odds)), odds], axis=1)
        ones = np.ones(len(odds), int)

        def call(name, values):
            return page.evaluate("([name, s, g]) => s.map((x) => maths[name](x, g))", [name, values, gamma])

        psi = call("psi", odds)
        np.testing.assert_allclose(psi, binary_focal_map(odds, gamma), rtol=1e-9)
        np.testing.assert_allclose(call("psiInverse", psi), odds, rtol=1e-9)
        losses = focal_loss(scores, ones, gamma)
        np.testing.assert_allclose(call("focalLoss", odds), losses, rtol=1e-9, atol=1e-300)
        proper = proper_focal_loss(scores, ones, gamma)
        np.testing.assert_allclose(call("properLoss", odds), proper, rtol=1e-9, atol=1e-300)
        if gamma > -1:
            bounds = page.evaluate("(g) => maths.temperatureBounds(g)", gamma)
            np.testing.assert_allclose(bounds, temperature_bounds(gamma), rtol=1e-12)
        if gamma > 0:
            threshold = page.evaluate("(g) => maths.raisingThreshold(g)", gamma)
            assert threshold == pytest.approx(raising_threshold(gamma), rel=1e-9)
