"""The compiled sums of a fit against the NumPy reference, which defines what is true."""

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import load_scores, needs_data, score_files
from focalcal.calibrators.objective import SumLosses, Survey, SurveyRows
from focalcal.kernels import compiled
from focalcal.rows import Block, in_blocks

rows = compiled()
pytestmark = pytest.mark.skipif(rows is None, reason="the compiled loops are not built, or switched off")

GAMMAS = [None, -1.0, -0.9, -1e-3, 0.0, 0.5, 2.0, 7.0, 20.0]


def compiled_sums(block: Block, kind: str, tau: float, gamma: float | None) -> np.ndarray:
    out = np.empty(11)
    gamma = np.nan if gamma is None else gamma
    rows.fit_sums(block.scores, block.codes, block.weight, kind == "probs", tau, gamma, out)
    return out


def reference_sums(block: Block, kind: str, tau: float, gamma: float | None) -> np.ndarray:
    return np.array(in_blocks(SumLosses(kind, "nll", tau, gamma)._reference, block).numbers())


def scales(block: Block, kind: str, tau: float, gamma: float | None) -> np.ndarray:
    """What each sum's rounding is relative to: the sum of sizes, not what cancelling leaves."""
    total = np.zeros(11)
    for i in range(len(block)):
        n, w, loss, t, g, tt, tg, gg, t_t, _, g_g = np.abs(
            reference_sums(block.part(slice(i, i + 1)), kind, tau, gamma)
        )
        w = max(w, 1e-300)
        t2, g2 = t_t / w, g_g / w
        both = np.sqrt((tt + t2) * (gg + g2))
        total += [n, w, loss, t, g, tt + t2 + t, tg + both, gg + g2 + g, t_t, np.sqrt(t_t * g_g), g_g]
    return total + 1e-30


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Block, str]:
    n, k = draw(st.integers(1, 70)), draw(st.integers(2, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    z = rng.normal(size=(n, k)) * draw(st.sampled_from([0.1, 3.0, 40.0, 2000.0]))
    if draw(st.booleans()):
        z = np.rint(z)  # ties
    codes = rng.integers(0, k, n)
    if draw(st.booleans()):
        z[rng.random(z.shape) < 0.3] = -np.inf
        z[np.arange(n), codes] = rng.normal(size=n)
    kind = draw(st.sampled_from(["logits", "logits", "probs"]))
    if kind == "probs":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        z = e / e.sum(axis=1, keepdims=True)
    z = z.astype(dtype)
    layout = draw(st.sampled_from(["C", "F", "strided", "reversed"]))
    if layout == "F":
        z = np.asfortranarray(z)
    elif layout == "strided":
        z = np.repeat(np.repeat(z, 2, axis=0), 3, axis=1)[::2, ::3]
    elif layout == "reversed":
        z = z[::-1, ::-1].copy()[::-1, ::-1]
    weight = rng.random(n) * rng.integers(0, 2, n) if draw(st.booleans()) else None
    return Block(z, codes, weight), kind


@given(blocks(), st.sampled_from([-1.0, 0.0, 0.7, 5.0]), st.sampled_from(GAMMAS))
@settings(max_examples=150)
def test_compiled_equals_reference(case, tau, gamma):
    block, kind = case
    got, expected = compiled_sums(block, kind, tau, gamma), reference_sums(block, kind, tau, gamma)
    if gamma is None:
        got[[4, 6, 7, 9, 10]] = 0
    double = block.scores.dtype == np.float64
    scale = scales(block, kind, tau, gamma)
    scale[3:] += expected[1]  # terms of order 1 that cancel within a row
    worst = int(np.argmax(np.abs(got - expected) / scale))
    assert abs(got - expected)[worst] <= (1e-12 if double else 1e-6) * scale[worst], (worst, got, expected)
    assert abs(got[2] - expected[2]) <= (1e-12 if double else 1e-6) * scale[2]


@given(blocks())
@settings(max_examples=60)
def test_compiled_survey_equals_reference(case):
    block, kind = case
    survey = SurveyRows(kind)
    got, expected = survey(block), in_blocks(survey._survey, block)
    assert isinstance(got, Survey)
    assert got.misses == expected.misses
    assert got.weight == pytest.approx(expected.weight, rel=1e-12)
    for name in ("distance", "slope"):
        assert getattr(got, name) == pytest.approx(
            getattr(expected, name), rel=1e-5, abs=1e-5 * (1 + expected.distance)
        )


@needs_data
@pytest.mark.parametrize("name", score_files())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_equals_reference_on_real_scores(name, dtype):
    scores, labels, kind, _ = load_scores(name)
    block = Block(scores[:4000].astype(dtype), labels[:4000], None)
    for tau, gamma in ((0.0, None), (0.5, -0.9), (0.5, 0.0), (-0.3, 2.0), (1.0, 5.0)):
        got, expected = compiled_sums(block, kind, tau, gamma), reference_sums(block, kind, tau, gamma)
        np.testing.assert_allclose(got[:3], expected[:3], rtol=1e-12 if dtype == np.float64 else 1e-6)
        size = np.sqrt(np.array([expected[8], expected[10]]) * len(block)) + 1e-30
        found = (
            np.abs(got - expected)[[3, 4][: 1 if gamma is None else 2]] / size[: 1 if gamma is None else 2]
        )
        assert found.max() <= (1e-12 if dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("gap", [1.0, 20.0, 64.0, 120.0])
@pytest.mark.parametrize("gamma", [-1.0, -1 + 1e-6, -0.5, 0.0, 3.0])
def test_derivatives_of_confident_rows_are_true(gap, gamma):
    z = [gap, 0.0, -1.5]

    def loss(tau: mp.mpf, g: mp.mpf) -> mp.mpf:
        over_temperature = mp.exp(-tau)
        q = [mp.exp(v * over_temperature) for v in z]
        total = mp.fsum(q)
        odds = [(total - v) / v for v in q]
        h = [1 / (1 + o) / (o / (1 + o)) ** g / (1 + g * mp.log1p(o) / o) for o in odds]
        return -mp.log(h[0] / mp.fsum(h))

    block = Block(np.array([z]), np.array([0]), None)
    for got in (compiled_sums(block, "logits", 0.0, gamma), reference_sums(block, "logits", 0.0, gamma)):
        with mp.workdps(int(3 * gap) + 60):
            true = [
                mp.diff(loss, (0, mp.mpf(gamma)), order) for order in ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
            ]
            true = [float(loss(mp.mpf(0), mp.mpf(gamma))), *map(float, true)]
        np.testing.assert_allclose(got[2:8], true, rtol=1e-7, atol=1e-12)


def test_huge_gaps_and_masks_stay_finite():
    z = np.array([[1e4, 0.0, -np.inf], [0.0, 1e4, -1e4], [-np.inf, 3.0, -np.inf]], np.float32)
    for gamma in GAMMAS:
        sums = compiled_sums(Block(z, np.array([0, 1, 1]), None), "logits", 0.0, gamma)
        assert np.isfinite(sums).all()
        assert sums[2] == pytest.approx(0, abs=1e-30)


@pytest.mark.parametrize("code", [-1, 5])
def test_a_code_that_is_no_column_is_refused(code):
    with pytest.raises(ValueError, match="numbers of columns"):
        compiled_sums(Block(np.zeros((3, 5)), np.array([0, code, 1]), None), "logits", 0.0, None)


@pytest.mark.parametrize("k", [3, 40])
@pytest.mark.parametrize("value", [np.nan, np.inf, "masked"])
@pytest.mark.parametrize("n", [1, 6])
def test_what_cannot_be_right_never_gives_finite_sums(k, value, n):
    z = np.random.default_rng(0).normal(size=(n, k))
    z[n - 1] = -np.inf if value == "masked" else z[n - 1]
    if value != "masked":
        z[n - 1, 1] = value
    for dtype in (np.float32, np.float64):
        for gamma in GAMMAS:
            sums = compiled_sums(Block(z.astype(dtype), np.zeros(n, np.int64), None), "logits", 0.0, gamma)
            assert not np.isfinite(sums[2:5]).all()
