"""Temperature scaling and focal temperature scaling: optima, scaling laws, and what a fit says of itself."""

import tracemalloc
import warnings

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from scipy.optimize import minimize_scalar

from cases import drawn, load_scores, needs_data, score_files
from focalcal import CalibrationWarning, FocalTemperatureScaling, TemperatureScaling, focal_map
from focalcal.calibrators.temperature.ece_search import GRID_GAMMAS, GRID_TEMPERATURES, equal_mass_ece

BOTH = [TemperatureScaling, FocalTemperatureScaling]


def mean_nll(z, y, temperature, gamma=0.0):
    return -focal_map(np.asarray(z, float) / temperature, gamma)[np.arange(len(y)), y].mean()


def quiet(calibrator, *data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return calibrator.fit(*data)


@pytest.mark.parametrize("n_classes", [2, 5, 40])
def test_temperature_is_the_minimum_of_the_nll(n_classes):
    z, y = drawn(3000, n_classes, 2.0, seed=1)
    cal = TemperatureScaling().fit(3 * z, y)
    found = minimize_scalar(lambda t: mean_nll(3 * z, y, np.exp(t)), bounds=(-2, 4), options={"xatol": 1e-12})
    assert cal.temperature_ == pytest.approx(np.exp(found.x), rel=1e-6)
    assert cal.diagnostics_.loss == pytest.approx(found.fun, rel=1e-12)
    assert abs(cal.temperature_ - 3) < 4 * cal.stderr_["temperature"]
    assert cal.diagnostics_.converged


@pytest.mark.parametrize("gamma", [-0.5, 1.0, 3.0])
def test_both_parameters_are_recovered(gamma):
    z, y = drawn(30_000, 10, 3.0, seed=2, gamma=gamma)
    cal = FocalTemperatureScaling().fit(2 * z, y)
    assert abs(cal.gamma_ - gamma) < 4 * cal.stderr_["gamma"]
    assert abs(cal.temperature_ - 2) < 4 * cal.stderr_["temperature"]
    assert cal.stderr_["gamma"] < 0.2 * (1 + gamma)
    assert cal.diagnostics_.messages() == []


def test_standard_errors_are_those_of_repeated_samples():
    fits = []
    for seed in range(60):
        z, y = drawn(3000, 8, 3.0, seed=100 + seed, gamma=1.0)
        fits.append(FocalTemperatureScaling().fit(z, y))
    for name in ("temperature", "gamma"):
        spread = np.subtract(*np.quantile([getattr(fit, f"{name}_") for fit in fits], [0.75, 0.25])) / 1.349
        assert np.median([fit.stderr_[name] for fit in fits]) == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize("criterion", ["nll", "brier"])
def test_focal_is_never_worse_than_temperature_and_gamma_bounds_hold(criterion):
    z, y = drawn(2000, 6, 2.0, seed=3, gamma=2.0)
    plain = TemperatureScaling(criterion=criterion).fit(z, y)
    focal = FocalTemperatureScaling(criterion=criterion).fit(z, y)
    assert focal.diagnostics_.loss < plain.diagnostics_.loss
    with pytest.warns(CalibrationWarning, match="At a bound: gamma"):
        held = FocalTemperatureScaling(criterion=criterion, gamma_bounds=(-0.2, 0.1)).fit(z, y)
    assert held.gamma_ == 0.1
    assert np.isnan(held.stderr_["gamma"])
    assert np.isfinite(held.stderr_["temperature"])
    assert held.diagnostics_.at_bound == ("gamma",)


def test_brier_fit_is_the_minimum_of_the_brier_score():
    z, y = drawn(2000, 5, 2.0, seed=4)
    cal = TemperatureScaling(criterion="brier").fit(2 * z, y)

    def brier(t):
        p = np.exp(focal_map(2 * z / np.exp(t), 0.0))
        return ((p - np.eye(5)[y]) ** 2).sum(axis=1).mean()

    found = minimize_scalar(brier, bounds=(-1, 3), options={"xatol": 1e-12})
    assert cal.temperature_ == pytest.approx(np.exp(found.x), rel=1e-5)
    assert cal.diagnostics_.loss == pytest.approx(found.fun, rel=1e-11)


@needs_data
@pytest.mark.parametrize("name", score_files())
def test_real_files_fit_no_worse_than_the_papers_grid(name):
    scores, labels, kind, chosen = load_scores(name)
    scores, labels = scores[chosen], labels[chosen]
    cal = quiet(FocalTemperatureScaling(input=kind), scores, labels)
    wide = np.asarray(scores, np.float64)
    z = np.log(np.maximum(wide, 1e-30)) if kind == "probs" else wide
    own = mean_nll(z, labels, cal.temperature_, cal.gamma_)
    assert own == pytest.approx(cal.diagnostics_.loss, abs=2e-7)
    # the grid near its optimum decides; all of it is run by benchmarks/real_scores.py
    grid = [
        mean_nll(z, labels, t, gamma)
        for gamma in GRID_GAMMAS
        for t in GRID_TEMPERATURES[np.argsort(np.abs(np.log(GRID_TEMPERATURES / cal.temperature_)))[:3]]
    ]
    assert own <= min(grid) + 1e-9


@settings(max_examples=15)
@given(st.floats(-6, 6), st.sampled_from(BOTH), st.integers(0, 5))
def test_scaled_logits_scale_the_temperature(power, family, seed):
    z, y = drawn(400, 3, 2.0, seed=seed)
    one = quiet(family(), z, y)
    other = quiet(family(), z * 10**power, y)
    assert other.temperature_ == pytest.approx(one.temperature_ * 10**power, rel=1e-4)
    np.testing.assert_allclose(other.transform(z * 10**power), one.transform(z), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_logits_times_100_and_a_hundredth(family, factor):
    z, y = drawn(2000, 10, 2.0, seed=5)
    one, other = family().fit(z, y), family().fit(z * factor, y)
    assert other.temperature_ == pytest.approx(factor * one.temperature_, rel=1e-6)
    np.testing.assert_allclose(other.predict_proba(z * factor), one.predict_proba(z), rtol=1e-6)


@pytest.mark.parametrize("family", BOTH)
def test_logits_of_sigma_60_give_finite_exact_answers(family):
    z, y = drawn(3000, 10, 2.0, seed=6)
    cal = family().fit(z * 30, y)
    assert cal.temperature_ == pytest.approx(30, rel=0.15)
    assert np.isfinite(cal.transform(z * 30)).all()
    raw = np.random.default_rng(0).normal(size=(2000, 10)) * 60
    assert np.isfinite(quiet(family(), raw, raw.argmax(axis=1)).transform(raw)).all()


@pytest.mark.parametrize("family", BOTH)
def test_a_masked_column_is_as_no_column(family):
    z, y = drawn(1500, 5, 2.0, seed=7, gamma=1.0)
    wide = np.insert(z, 2, -np.inf, axis=1)
    with pytest.warns(CalibrationWarning, match="1 of the classes have no row"):
        masked = family().fit(wide, y + (y >= 2))
    plain = family().fit(z, y)
    assert masked.temperature_ == pytest.approx(plain.temperature_, rel=1e-7)
    assert (masked.predict_proba(wide)[:, 2] == 0).all()
    np.testing.assert_allclose(np.delete(masked.predict_proba(wide), 2, 1), plain.predict_proba(z), rtol=1e-6)
    with pytest.raises(ValueError, match="a label whose logit is -inf in row 3"):
        family().fit(wide, np.where(np.arange(1500) == 3, 2, y + (y >= 2)))


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("criterion", ["nll", "brier", "ece"])
def test_separable_data_warn_and_stay_finite(family, criterion):
    z, _ = drawn(500, 4, 3.0, seed=8)
    with pytest.warns(CalibrationWarning, match="perfectly separable"):
        cal = family(criterion=criterion).fit(z, z.argmax(axis=1))
    assert cal.diagnostics_.separable
    assert getattr(cal, "gamma_", 0) == 0
    assert np.isfinite(cal.transform(z)).all()
    assert mean_nll(z, z.argmax(axis=1), cal.temperature_) == pytest.approx(np.log(502 / 501), rel=1e-6)


@pytest.mark.parametrize("family", BOTH)
def test_worse_than_chance_warns_and_gives_uniform_probabilities(family):
    z, y = drawn(800, 4, 2.0, seed=9)
    with pytest.warns(CalibrationWarning, match="worse than chance"):
        cal = family().fit(-z, y)
    assert cal.diagnostics_.worse_than_chance
    assert cal.diagnostics_.at_bound == ("temperature",)
    np.testing.assert_allclose(cal.predict_proba(-z), 0.25, atol=1e-3)


def test_two_classes_with_positive_gamma_are_not_identifiable():
    z, y = drawn(4000, 2, 1.5, seed=10, gamma=2.0)
    with pytest.warns(CalibrationWarning, match="not identifiable together"):
        focal = FocalTemperatureScaling().fit(z, y)
    plain = TemperatureScaling().fit(z, y)
    assert focal.diagnostics_.identifiable is False
    assert focal.gamma_ == 0
    assert focal.temperature_ == pytest.approx(plain.temperature_, rel=1e-6)


@pytest.mark.parametrize("family", BOTH)
def test_constant_scores_say_that_nothing_can_be_told(family):
    with pytest.warns(CalibrationWarning, match="not identifiable"):
        cal = family().fit(np.zeros((6, 3)), [0, 1, 2, 0, 1, 2])
    np.testing.assert_allclose(cal.predict_proba(np.zeros((2, 3))), 1 / 3)


@pytest.mark.parametrize("family", BOTH)
def test_one_row_and_one_class(family):
    miss = quiet(family(), [[0.0, 1.0, 0.5]], [0])
    assert miss.diagnostics_.worse_than_chance
    hit = quiet(family(), [[0.0, 1.0, 0.5]], [1])
    assert hit.diagnostics_.separable
    z, _ = drawn(50, 3, 2.0, seed=11)
    one = quiet(family(), z, np.zeros(50, int))
    assert one.diagnostics_.unseen_classes == 2
    assert list(one.classes_) == [0, 1, 2]
    for cal in (miss, hit, one):
        assert np.isfinite(cal.transform(z)).all()


@pytest.mark.parametrize("family", BOTH)
def test_logits_in_the_unit_interval_are_logits(family):
    z, y = drawn(2000, 3, 1.0, seed=12)
    squeezed = (z - z.min()) / np.ptp(z)
    squeezed /= squeezed.sum(axis=1, keepdims=True)  # they even sum to one
    with pytest.warns(CalibrationWarning, match="as probabilities do, and are taken as the logits"):
        logits = family().fit(squeezed, y)
    probs = quiet(family(input="probs"), squeezed, y)
    assert mean_nll(squeezed, y, 1.0) != pytest.approx(logits.diagnostics_.loss)
    best = minimize_scalar(lambda t: mean_nll(squeezed, y, np.exp(t)), bounds=(-6, 2))
    if family is TemperatureScaling:
        assert logits.diagnostics_.loss == pytest.approx(best.fun, abs=1e-9)
    assert logits.temperature_ != pytest.approx(probs.temperature_, rel=0.2)


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("criterion", ["nll", "brier"])
@pytest.mark.parametrize("n_classes", [10, 60])
def test_float32_and_float16_equal_float64(family, criterion, n_classes):
    z, y = drawn(1500, n_classes, 3.0, seed=13)
    half = z.astype(np.float16)
    fits = [
        quiet(family(criterion=criterion), half.astype(d), y) for d in (np.float64, np.float32, np.float16)
    ]
    for other in fits[1:]:
        assert other.diagnostics_.loss == pytest.approx(fits[0].diagnostics_.loss, rel=1e-6)
        np.testing.assert_allclose(
            other.predict_proba(half.astype(np.float32)), fits[0].predict_proba(half.astype(float)), atol=2e-5
        )
    assert fits[2].temperature_ == pytest.approx(fits[1].temperature_, rel=1e-12)


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_binary_scores_in_every_shape_agree(family, kind):
    z, y = drawn(1000, 2, 2.0, seed=14)
    s = z[:, 1] - z[:, 0]
    two = np.stack([np.zeros_like(s), s], 1)
    if kind == "probs":
        two = np.exp(focal_map(two, 0.0))
        s = two[:, 1]
    fits = [quiet(family(input=kind), x, y) for x in (two, s, s[:, None])]
    for other, x in zip(fits[1:], (s, s[:, None])):
        assert other.temperature_ == pytest.approx(fits[0].temperature_, rel=1e-6)
        np.testing.assert_allclose(other.predict_proba(x), fits[0].predict_proba(two), atol=1e-9)
        assert other.predict_proba(x).shape == (1000, 2)
        np.testing.assert_array_equal(other.predict(x), fits[0].predict(two))


def test_labels_of_every_kind():
    z, y = drawn(300, 3, 2.0, seed=15)
    expected = TemperatureScaling().fit(z, y)
    names = np.array(["cat", "dog", "eel"])
    for labels, classes in [
        (names[y], None),
        (names[y].astype(object), None),
        (pd.Series(names[y]), None),
        (pd.Categorical(names[y]), None),
        (y * 10 + 5, None),
        (y.astype(np.uint8), None),
        (y.astype(float), None),
        (names[::-1][y], names[::-1]),
    ]:
        cal = TemperatureScaling(classes=classes).fit(z, labels)
        assert cal.temperature_ == pytest.approx(expected.temperature_, rel=1e-12)
        assert (cal.predict(z) == cal.classes_[z.argmax(axis=1)]).all()
    two, labels = drawn(200, 2, 1.0, seed=16)
    cal = TemperatureScaling().fit(two, labels.astype(bool))
    assert cal.classes_.tolist() == [False, True]


def test_every_other_row_of_an_array():
    z, y = drawn(400, 3, 2.0, seed=19)
    weight = np.random.default_rng(0).uniform(0.5, 2, 400)
    copied = TemperatureScaling().fit(z[::2].copy(), y[::2].copy(), sample_weight=weight[::2].copy())
    for labels in (y, y.astype(np.int32), y * 10 + 5):
        strided = TemperatureScaling().fit(z[::2], labels[::2], sample_weight=weight[::2])
        assert strided.temperature_ == pytest.approx(copied.temperature_, rel=1e-12)


def test_tables_of_every_kind():
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    z, y = drawn(200, 3, 2.0, seed=17)
    expected = TemperatureScaling().fit(z, y)
    frame = pd.DataFrame(z, columns=list("abc"))
    for x, labels in [
        (frame, pd.Series(y)),
        (pl.DataFrame(z, schema=list("abc")), pl.Series(y)),
        (pa.table({c: z[:, k] for k, c in enumerate("abc")}), pa.array(y)),
        (torch.tensor(z, requires_grad=True), torch.tensor(y)),
        (z.tolist(), y.tolist()),
        (np.asfortranarray(z), y),
        (z[::-1][::-1], y),
    ]:
        cal = TemperatureScaling().fit(x, labels)
        assert cal.temperature_ == pytest.approx(expected.temperature_, rel=1e-12)
        np.testing.assert_allclose(cal.predict_proba(x), expected.predict_proba(z))


@pytest.mark.parametrize("family", BOTH)
def test_weights_repeat_rows(family):
    z, y = drawn(600, 4, 2.0, seed=18, gamma=1.0)
    weight = np.random.default_rng(0).integers(0, 4, 600)
    weighted = family().fit(z, y, sample_weight=weight)
    repeated = family().fit(np.repeat(z, weight, axis=0), np.repeat(y, weight))
    assert weighted.temperature_ == pytest.approx(repeated.temperature_, rel=1e-6)
    assert weighted.diagnostics_.loss == pytest.approx(repeated.diagnostics_.loss, rel=1e-12)


@pytest.mark.parametrize("family", BOTH)
def test_rows_and_classes_permute(family):
    z, y = drawn(3000, 6, 2.0, seed=19)
    rows, columns = np.random.default_rng(1).permutation(3000), np.array([3, 0, 5, 1, 4, 2])
    one = family().fit(z, y)
    other = family().fit(z[rows][:, columns], np.argsort(columns)[y[rows]])
    assert other.temperature_ == pytest.approx(one.temperature_, rel=1e-6)
    assert other.diagnostics_.loss == pytest.approx(one.diagnostics_.loss, rel=1e-11)


def test_blocks_do_not_change_a_fit(monkeypatch):
    z, y = drawn(5000, 10, 2.0, seed=20)
    one = FocalTemperatureScaling().fit(z, y)
    monkeypatch.setattr("focalcal.engine.row_slices.__defaults__", (0, 700))
    other = FocalTemperatureScaling().fit(z, y)
    assert other.temperature_ == pytest.approx(one.temperature_, rel=1e-10)
    assert other.gamma_ == pytest.approx(one.gamma_, abs=1e-9)


def test_extra_memory_does_not_grow_with_rows():
    z, y = drawn(60_000, 20, 2.0, seed=21)
    z = z.astype(np.float32)
    peaks = []
    for n in (30_000, 60_000):
        tracemalloc.start()
        FocalTemperatureScaling().fit(z[:n], y[:n])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 60e6
    assert peaks[1] < 1.3 * peaks[0]


@pytest.mark.parametrize("family", BOTH)
def test_ece_fit_beats_the_nll_fit_in_ece(family):
    z, y = drawn(3000, 10, 2.0, seed=22, gamma=1.5)
    by_ece, by_nll = family(criterion="ece").fit(z, y), family().fit(z, y)

    def ece(cal):
        p = cal.predict_proba(z)
        return equal_mass_ece(p.max(axis=1), p.argmax(axis=1) == y, None)

    assert ece(by_ece) == pytest.approx(by_ece.diagnostics_.loss, abs=1e-9)
    assert ece(by_ece) < ece(by_nll)
    coarse = [
        equal_mass_ece(p.max(axis=1), p.argmax(axis=1) == y, None)
        for t in GRID_TEMPERATURES[::7]
        for g in ((0.0,) if family is TemperatureScaling else GRID_GAMMAS[::3])
        for p in [np.exp(focal_map(z / t, g))]
    ]
    assert by_ece.diagnostics_.loss <= min(coarse) + 1e-12
    assert np.isnan(by_ece.stderr_["temperature"])


def test_the_search_uses_the_same_ece_as_judging_does():
    from focalcal import ece

    rng = np.random.default_rng(3)
    p = rng.random(700).round(2)
    hit = rng.random(700) < p
    weight = rng.random(700)
    two = np.stack([1 - p, p], 1)
    two[p < 0.5] = two[p < 0.5][:, ::-1]
    labels = np.where(hit, 1, 0)
    for w in (None, weight):
        expected = ece(labels, two, w, binning="equal-mass").value
        confidence = two.max(axis=1)
        assert equal_mass_ece(confidence, labels == two.argmax(axis=1), w) == pytest.approx(
            expected, abs=1e-12
        )


@pytest.mark.parametrize("family", BOTH)
def test_every_wrong_input_is_one_clear_error(family):
    z, y = drawn(20, 3, 1.0, seed=23)
    cases = [
        ((z, y[:-1]), {}, "y with one entry for each of the 20 rows"),
        ((z, y, np.ones(3)), {}, "sample_weight with one entry"),
        ((z, y, -np.ones(20)), {}, "sample_weight finite and >= 0"),
        ((z, y, np.zeros(20)), {}, "only zeros"),
        ((z, y, np.full(20, 1e-101)), {}, "sample_weight from 1e-100 to 1e100"),
        ((z, y, np.full(20, 1e101)), {}, "sample_weight from 1e-100 to 1e100"),
        ((z, y * 7 - 1.5), {}, "Unknown label type"),
        ((z[:0], y[:0]), {}, "at least one row"),
        ((np.where(z > 1, np.nan, z), y), {}, "without NaN, got NaN in row"),
        ((np.where(z > 1, np.inf, z), y), {}, r"below \+inf"),
        ((z, y), {"input": "probs"}, 'If these are logits, pass input="logits"'),
        ((np.abs(z), y), {"input": "probs"}, "in \\[0, 1\\], got min|sum to 1"),
        ((np.full((20, 3), 0.2), y), {"input": "probs"}, "sum to 1 .* got 0.6 in row 0"),
        ((z, y), {"input": "scores"}, 'Expected input="logits" or input="probs", got \'scores\''),
        ((z, y), {"criterion": "mse"}, "Expected criterion to be one of 'nll', 'brier', 'ece', got 'mse'"),
        ((z, np.array(["a", "b"] * 10)), {}, r"got 2 different classes.*Pass classes="),
        ((z, y), {"classes": ["a", "b"]}, "name each of the 3 columns once"),
        ((z, y), {"classes": [0, 1, 5]}, "Expected every label among the 3 classes"),
        ((z[None], y), {}, "Reshape your data"),
        ((z.astype(complex), y), {}, "Complex data not supported"),
        ((z.astype(str), y), {}, "to be numeric"),
        ((z, np.stack([y, y], 1)), {}, "Expected y of shape"),
        ((z, None), {}, "requires y to be passed, but the target y is None"),
    ]
    for data, settings_, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            family(**settings_).fit(*data)
    with pytest.raises(ValueError, match=r"gamma_bounds \(low, high\) with low <= 0 <= high"):
        FocalTemperatureScaling(gamma_bounds=(1, 2)).fit(z, y)
    cal = family().fit(z, y)
    with pytest.raises(ValueError, match="one column for each of the 3 classes"):
        cal.predict_proba(z[:, :2])


def test_repr_tells_parameters_and_diagnostics():
    z, y = drawn(400, 3, 2.0, seed=24)
    assert repr(FocalTemperatureScaling()) == "FocalTemperatureScaling()"
    text = repr(FocalTemperatureScaling().fit(z, y))
    assert "temperature=" in text
    assert "gamma=" in text
    assert "n=400" in text
    assert "worse than chance" in repr(quiet(TemperatureScaling(), -z, y))


@pytest.mark.parametrize(
    ("unit", "expected"),
    [(1.0, 1.0), (0.01, 0.01 * np.log(49) / np.log(101)), (3.0, 3 * np.log(49) / np.log(101))],
)
def test_rows_without_an_error_do_not_raise_confidence_without_need(unit, expected):
    """100 rows right at p = .98: Laplace's rule would have .99 without need; in small units there is need."""
    y = np.arange(100) % 2
    z = np.where(np.arange(2) == y[:, None], np.log(49.0), 0.0)
    with pytest.warns(CalibrationWarning, match="perfectly separable"):
        cal = TemperatureScaling().fit(unit * z, y)
    assert cal.temperature_ == pytest.approx(expected, rel=1e-6)
