"""What every family of calibrators has in common: weights, masks, kinds of scores, files, and odd data."""

import json
import warnings

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.base import clone

from cases import drawn
from fitted import hard_rows
from focalcal import CalibrationWarning, evaluate, load, report
from focalcal.calibrators import _FAMILIES
from focalcal.cli.console import show_fit
from focalcal.jobs import report_file

EVERY = sorted(_FAMILIES)
every_family = pytest.mark.parametrize("name", EVERY)

#: Families whose parameters belong to classes in a way that a renumbering of the classes does not permute:
#: bins of the second class's scores include their upper edges.
NOT_EQUIVARIANT_IN_TWO = {"HistogramBinning"}

#: Families that are judged by rows left out in folds, into several of which the copies of a row fall.
IN_FOLDS = {"FocalMatrixScaling"}


def fit(name, *data, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return _FAMILIES[name](**settings).fit(*data)


def as_probs(z):
    return np.exp(log_softmax(z, axis=1))


@pytest.fixture(scope="module", params=[2, 4])
def rows(request):
    z, y = drawn(500, request.param, 2.0, seed=3)
    return 1.5 * z, y


@every_family
def test_rows_of_probabilities_that_are_the_exponentials(name, rows):
    z, y = rows
    cal = fit(name, z, y)
    p = cal.predict_proba(z)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    assert (p > 0).all()
    np.testing.assert_allclose(p, np.exp(cal.transform(z)), rtol=1e-12)
    np.testing.assert_array_equal(cal.predict(z), p.argmax(axis=1))
    loss = -cal.transform(z)[np.arange(500), y].mean()
    assert cal.diagnostics_.loss == pytest.approx(loss, rel=1e-6) or (
        name in IN_FOLDS and loss < cal.diagnostics_.loss
    )
    assert cal.diagnostics_.loss < -log_softmax(z, axis=1)[np.arange(500), y].mean() + 0.02
    assert cal.diagnostics_.converged
    assert cal.diagnostics_.messages() == []


@every_family
def test_weights_repeat_rows(name, rows):
    z, y = rows
    weight = np.random.default_rng(0).integers(0, 3, len(y))
    weighted = fit(name, z, y, weight)
    repeated = fit(name, np.repeat(z, weight, axis=0), np.repeat(y, weight))
    if name in IN_FOLDS:
        pytest.skip("folds part the copies of a row")
    np.testing.assert_allclose(weighted.predict_proba(z), repeated.predict_proba(z), atol=2e-5)
    assert weighted.diagnostics_.loss == pytest.approx(repeated.diagnostics_.loss, rel=1e-5)


@every_family
def test_a_row_without_weight_is_no_row(name, rows):
    z, y = rows
    weight = (np.arange(len(y)) % 3 > 0).astype(float)
    wild = np.where(weight[:, None] == 0, 30.0 * z[:, ::-1], z)
    there, absent = fit(name, wild, y, weight), fit(name, z[weight > 0], y[weight > 0])
    np.testing.assert_allclose(there.predict_proba(z), absent.predict_proba(z), atol=2e-5)


@every_family
def test_a_masked_class_stays_impossible(name):
    z, y = drawn(300, 4, 2.0, seed=5)
    masked = np.random.default_rng(1).random(z.shape) < 0.2
    masked[np.arange(300), y] = False
    masked[:3] = True
    masked[np.arange(3), y[:3]] = False  # one class left
    z = np.where(masked, -np.inf, z)
    cal = fit(name, z, y)
    p = cal.predict_proba(z)
    assert (p[masked] == 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_allclose(p[np.arange(3), y[:3]], 1)
    assert np.isneginf(cal.transform(z)[masked]).all()
    y[7] = (y[7] + 1) % 4
    z[7, y[7]] = -np.inf
    with pytest.raises(ValueError, match="a label whose logit is -inf in row 7"):
        fit(name, z, y)


@every_family
def test_float16_and_float32_are_as_float64(name, rows):
    z, y = rows
    half = z.astype(np.float16)
    wide = fit(name, half.astype(np.float64), y)
    for dtype in (np.float32, np.float16):
        cal = fit(name, half.astype(dtype), y)
        assert cal.transform(half.astype(dtype)).dtype == np.float32
        found, expected = cal.predict_proba(half), wide.predict_proba(half.astype(float))
        # rounding may move a score over a bin's edge
        assert np.quantile(np.abs(found - expected), 0.98) < 1e-4


@every_family
def test_probabilities_are_their_logarithms(name, rows):
    z, y = rows
    z = log_softmax(z, axis=1)
    logits, probs = fit(name, z, y), fit(name, np.exp(z), y, input="probs")
    np.testing.assert_allclose(probs.predict_proba(np.exp(z)), logits.predict_proba(z), atol=1e-5)


@every_family
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_the_score_of_the_second_class_is_two_columns(name, kind):
    z, y = drawn(300, 2, 2.0, seed=6)
    z = np.stack([np.zeros(300), z[:, 1] - z[:, 0]], axis=1)
    two = z if kind == "logits" else as_probs(z)
    column = two[:, 1]
    whole = fit(name, two, y, input=kind)
    for scores in (column, column[:, None]):
        cal = fit(name, scores, y, input=kind)
        assert cal.predict_proba(scores).shape == (300, 2)
        np.testing.assert_allclose(cal.predict_proba(scores), whole.predict_proba(two), atol=1e-6)


@every_family
def test_a_saved_calibrator_is_loaded_bit_for_bit(name, rows, tmp_path):
    z, y = rows
    names = np.array(["ant", "bee", "eel", "fox"])[: z.shape[1]]
    cal = fit(name, z, names[y])
    cal.save(tmp_path / "cal.json")
    again = load(tmp_path / "cal.json")
    assert type(again) is type(cal)
    np.testing.assert_array_equal(again.transform(z), cal.transform(z))
    np.testing.assert_array_equal(again.predict(z), cal.predict(z))
    assert again.diagnostics_ == cal.diagnostics_
    assert repr(again).splitlines()[1:] == repr(cal).splitlines()[1:]
    for parameter in cal._parameter_names:
        np.testing.assert_array_equal(getattr(again, f"{parameter}_"), getattr(cal, f"{parameter}_"))
    assert set(again.stderr_) == set(cal.stderr_)
    for parameter, value in cal.stderr_.items():
        np.testing.assert_array_equal(again.stderr_[parameter], value)


@every_family
def test_a_file_whose_parameters_lost_their_shape_is_refused(name, rows, tmp_path):
    z, y = rows
    cal = fit(name, z, y)
    path = tmp_path / "cal.json"
    cal.save(path)
    whole = json.loads(path.read_text())
    for parameter, value in whole["parameters"].items():
        wrong = [[[1.0]], [1.0] * 7, "1", None]
        wrong += [value[:-1], [value]] if isinstance(value, list) else [[value]]
        wrong += [1.0] if isinstance(value, list) else []
        for damaged in wrong:
            path.write_text(json.dumps(whole | {"parameters": whole["parameters"] | {parameter: damaged}}))
            with pytest.raises(ValueError, match="Expected"):
                load(path)


@every_family
def test_rows_permute(name, rows):
    z, y = rows
    order = np.random.default_rng(2).permutation(len(y))
    one, other = fit(name, z, y), fit(name, z[order], y[order])
    np.testing.assert_allclose(other.predict_proba(z), one.predict_proba(z), atol=2e-5)


@every_family
def test_classes_permute(name, rows):
    z, y = rows
    if z.shape[1] == 2 and name in NOT_EQUIVARIANT_IN_TWO:
        pytest.skip("its bins are of the second class")
    columns = np.array([3, 0, 2, 1]) if z.shape[1] == 4 else np.array([1, 0])
    one = fit(name, z, y).predict_proba(z)
    other = fit(name, z[:, columns], np.argsort(columns)[y]).predict_proba(z[:, columns])
    np.testing.assert_allclose(other, one[:, columns], atol=2e-5)


@every_family
def test_classes_without_rows_are_told(name):
    z, y = drawn(200, 5, 2.0, seed=7)
    kept = y < 3
    with pytest.warns(CalibrationWarning, match="2 of the classes have no row"):
        cal = _FAMILIES[name]().fit(z[kept], y[kept])
    assert cal.diagnostics_.unseen_classes == 2
    p = cal.predict_proba(z)
    assert np.isfinite(cal.transform(z)).all()
    assert p[:, 3:].mean() <= as_probs(z)[:, 3:].mean() * 1.5


@every_family
def test_scores_of_another_width_are_refused(name, rows):
    z, y = rows
    cal = fit(name, z, y)
    with pytest.raises(ValueError, match=f"one column for each of the {z.shape[1]} classes"):
        cal.transform(np.zeros((3, 7)))


@every_family
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_single_row(name, n_classes):
    for label in range(n_classes):
        cal = fit(name, np.arange(float(n_classes))[None], [label])
        p = cal.predict_proba(np.array([np.arange(float(n_classes)), np.zeros(n_classes)]))
        assert ((p >= 0) & (p <= 1)).all()
        np.testing.assert_allclose(p.sum(axis=1), 1)
        assert np.isfinite(cal.diagnostics_.loss)


@every_family
@pytest.mark.parametrize("n_classes", [2, 4])
def test_separable_scores_are_told_and_leave_finite_losses(name, n_classes):
    z, _ = drawn(300, n_classes, 3.0, seed=8)
    with pytest.warns(CalibrationWarning, match="perfectly separable"):
        cal = _FAMILIES[name]().fit(z, z.argmax(axis=1))
    assert np.isfinite(cal.transform(z)).all()
    assert np.isfinite(cal.transform(-z)).all()
    assert 0 < cal.diagnostics_.loss < 0.7 * np.log(n_classes)


@every_family
@pytest.mark.parametrize("n_classes", [2, 3])
def test_scores_that_are_all_equal(name, n_classes):
    z, y = np.zeros((30, n_classes)), np.arange(30) % n_classes
    with pytest.warns(CalibrationWarning, match="not identifiable"):
        cal = _FAMILIES[name]().fit(z, y)
    np.testing.assert_allclose(cal.predict_proba(z), 1 / n_classes, atol=5e-3)  # smoothed targets
    assert np.isfinite(cal.transform(drawn(50, n_classes, 2.0, seed=1)[0])).all()


@every_family
def test_scores_that_point_away_are_told(name, rows):
    z, y = rows
    with pytest.warns(CalibrationWarning, match="worse than chance"):
        cal = _FAMILIES[name]().fit(-z, y)
    assert np.isfinite(cal.transform(z)).all()


@every_family
def test_hard_rows_become_probabilities(name):
    z, y = drawn(300, 5, 2.0, seed=9)
    cal = fit(name, z.astype(np.float32), y)
    rows = hard_rows(5)
    for scores in (rows, rows.astype(np.float64)):
        p = cal.predict_proba(scores)
        assert ((p >= 0) & (p <= 1)).all()
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
        assert (p[np.isneginf(scores)] == 0).all()


@every_family
@pytest.mark.parametrize("n_classes", [2, 4])
def test_odd_data_give_probabilities(name, n_classes):
    z, y = drawn(120, n_classes, 2.0, seed=14)
    alone = np.where(np.arange(n_classes) != y[:, None], -np.inf, z)
    odd = {
        "huge": (z * 1e30, y),
        "tiny": (z * 1e-12, y),
        "shifted": (z + 1e5 * np.arange(120)[:, None], y),
        "two places": (np.repeat(z[:2], 60, axis=0), y),
        "one class": (z, np.zeros(120, int)),
        "decided by the mask": (alone, y),
        "few sure rows": (np.vstack([z, 1e6 * z[:3]]), np.r_[y, y[:3]]),
        "small weights": (z, y, np.full(120, 1e-6)),
        "large weights": (z, y, np.full(120, 1e9)),
    }
    for what, data in odd.items():
        cal = fit(name, *data)
        for scores in (data[0], np.zeros((1, n_classes)), 1e3 * z):
            p = cal.predict_proba(scores)
            assert ((p >= 0) & (p <= 1)).all(), what
            np.testing.assert_allclose(p.sum(axis=1), 1, err_msg=what)
        assert np.isfinite(cal.diagnostics_.loss), what


@every_family
def test_values_that_are_no_scores_are_refused(name):
    z, y = drawn(30, 3, 1.0, seed=10)
    for wrong, message in ((np.nan, "without NaN, got NaN in row 4"), (np.inf, r"below \+inf")):
        broken = z.copy()
        broken[4, 1] = wrong
        with pytest.raises(ValueError, match=message):
            fit(name, broken, y)
        with pytest.raises(ValueError, match=message):
            fit(name, z, y).transform(broken)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        fit(name, z, y, input="probs")
    with pytest.raises(ValueError, match='Expected input="logits" or input="probs"'):
        fit(name, z, y, input="scores")


@every_family
def test_clones_and_settings(name, rows):
    z, y = rows
    cal = _FAMILIES[name](input="probs", classes=["a", "b"])
    assert clone(cal).get_params() == cal.get_params()
    settings = _FAMILIES[name]().get_params()
    first = fit(name, z, y)
    assert first.get_params() == settings
    np.testing.assert_array_equal(clone(first).fit(z, y).transform(z), first.transform(z))


@every_family
def test_people_can_read_what_was_fitted(name, tmp_path, capsys):
    z, y = drawn(200, 3, 2.0, seed=11)
    cal = fit(name, z, y)
    show_fit(cal, "200 rows")
    out = capsys.readouterr().out
    criterion = cal.diagnostics_.criterion.replace("nll", "NLL")
    assert f"fitted by {criterion} on 200 rows" in out.splitlines()[0]
    found = {"after": evaluate(y, cal.transform(z), input="logits")}
    page = report(tmp_path / "page.html", found, calibrator=cal).read_text(encoding="utf-8")
    assert f"{name} was fitted to 200 rows of logits with 3 classes." in page
    for parameter in cal._parameter_names:
        value = getattr(cal, f"{parameter}_")
        line = next(line for line in out.splitlines() if line.startswith(parameter))
        shape = " × ".join(map(str, np.shape(value)))
        assert (f"{shape} numbers" if shape else f"{value:.4f}") in line
        assert f"{shape} numbers" in page or np.ndim(value) == 0


def test_a_table_of_one_number_is_shown_as_the_number(capsys):
    z, y = drawn(200, 2, 2.0, seed=11)
    cal = fit("PlattScaling", z, y)
    show_fit(cal, "200 rows")
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("Platt scaling, fitted by NLL")
    shown = next(line for line in lines if line.startswith("slope")).split()
    assert shown == ["slope", f"{cal.slope_[0]:.4f}", f"{cal.stderr_['slope'][0]:.4f}"]


def test_a_report_of_a_file_takes_a_family_without_a_temperature(tmp_path):
    z, y = drawn(300, 3, 2.0, seed=12)
    np.savez(tmp_path / "scores.npz", logits=z, labels=y)
    cal = fit("IsotonicCalibration", z, y)
    cal.save(tmp_path / "cal.json")
    report_file(tmp_path / "scores.npz", tmp_path / "page.html", calibrator=load(tmp_path / "cal.json"))
    assert "best function that never falls" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_pytorch_says_which_families_it_knows():
    pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")
    from focalcal.nn import to_module

    z, y = drawn(100, 3, 2.0, seed=13)
    with pytest.raises(TypeError, match=r"PyTorch can say \(TemperatureScaling, .*\), got BetaCalibration"):
        to_module(fit("BetaCalibration", z, y))
