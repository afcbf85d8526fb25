"""The estimates against numbers of other libraries that `freeze.py` kept, and where they differ and why."""

import json

import numpy as np
import pytest

from focalcal.metrics import classwise_ece, decomposition, ece, selective_risk, smooth, smooth_ece
from focalcal.metrics.decomposition import decompose
from oracles.freeze import CLASSES, FILE, SHAPES, SIZES, events, predictions, weights

FROZEN = json.loads(FILE.read_text())
BINARY = [(shape, n) for shape in SHAPES for n in SIZES]
MULTICLASS = [(k, n) for k in CLASSES for n in SIZES]
EQUAL_MASS = {"binning": "equal-mass"}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Only values are compared: their intervals need no care."""
    monkeypatch.setattr(smooth, "_DRAWS", 2)
    monkeypatch.setattr(decomposition, "_DRAWS", 2)


def of_events(library, shape, n):
    return FROZEN[f"{shape} {n}"][library], *events(shape, n)


def of_predictions(library, k, n):
    return FROZEN[f"{k} classes {n}"][library], *predictions(n, k)


def close(a, b, within=1e-9):
    assert a == pytest.approx(b, abs=within)


def test_the_inputs_are_those_that_were_frozen():
    c, y = events("uniform", 50)
    close(FROZEN["uniform 50"]["model-diagnostics"]["brier"]["score"], np.mean((c - y) ** 2), 1e-15)
    assert FILE.stat().st_size < 60_000


# relplot ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "n"), BINARY)
def test_smooth_ece_is_relplots(shape, n):
    theirs, c, y = of_events("relplot", shape, n)
    close(smooth_ece(y, c, of_class=1, convention="relplot").value, theirs["smooth"], 1e-6)


@pytest.mark.parametrize("shape", ["uniform", "calibrated", "one-sided", "wiggling", "tied"])
def test_smooth_ece_of_the_paper_is_relplots_where_few_confidences_are_near_the_ends(shape):
    for n in SIZES:
        theirs, c, y = of_events("relplot", shape, n)
        close(smooth_ece(y, c, of_class=1).value, theirs["smooth"], 1e-3)


def test_smooth_ece_of_the_paper_counts_sure_rows_whole():
    """relplot halves what lies within a cell of its grid at 0 and 1, and weights by the density so found.

    Where all gaps have one sign smECE is the mean gap, by its definition; relplot's is below it when the sure
    rows' gap is the larger one.
    """
    theirs, c, y = of_events("relplot", "confident", 600)
    mean_gap = float(np.mean(c - y))
    assert smooth_ece(y, c, of_class=1).value == pytest.approx(mean_gap, abs=2e-4)
    assert theirs["smooth"] < mean_gap - 2e-3


# uncertainty-calibration -----------------------------------------------------------------------------------

#: What they call an estimate, and what it is here. Bins are (l, u] in both.
NORMS = {
    "l1": {},
    "l2": {"norm": "l2"},
    "l2-debiased": {"norm": "l2", "debiased": True},
}
BY_MASS = {"l1-equal-mass": EQUAL_MASS, "l2-equal-mass-debiased": NORMS["l2-debiased"] | EQUAL_MASS}


def lonely(c, bins=15):
    """Say whether a bin holds a single row."""
    return 1 in np.bincount(np.ceil(c * bins).astype(int))


@pytest.mark.parametrize(("shape", "n"), BINARY)
def test_binned_errors_of_a_class(shape, n):
    theirs, c, y = of_events("uncertainty-calibration", shape, n)
    for name, options in NORMS.items():
        if "debiased" not in name or not lonely(c):
            close(ece(y, c, of_class=1, **options).value, theirs[f"marginal-{name}"])


@pytest.mark.parametrize(("k", "n"), MULTICLASS)
def test_binned_errors_of_the_top_class(k, n):
    theirs, p, y = of_predictions("uncertainty-calibration", k, n)
    for name, options in NORMS.items():
        if "debiased" not in name or not lonely(p.max(axis=1)):
            close(ece(y, p, **options).value, theirs[f"top-label-{name}"])


@pytest.mark.parametrize(("k", "n"), MULTICLASS)
def test_class_wise_errors(k, n):
    theirs, p, y = of_predictions("uncertainty-calibration", k, n)
    for name in ("l1", "l2"):
        close(classwise_ece(y, p, **NORMS[name]).value, theirs[f"marginal-{name}"])


def test_debiased_class_wise_error_where_every_class_is_clearly_off():
    theirs, p, y = of_predictions("uncertainty-calibration", 3, 3000)
    close(classwise_ece(y, p, **NORMS["l2-debiased"]).value, theirs["marginal-l2-debiased"])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [600, 3000])  # multiples of the number of bins
def test_equal_mass(shape, n):
    theirs, c, y = of_events("uncertainty-calibration", shape, n)
    for name, options in BY_MASS.items():
        close(ece(y, c, of_class=1, **options).value, theirs[f"marginal-{name}"])


def test_debiased_l1_is_the_mean_of_their_draws():
    """They draw a thousand times what is here a formula, with n instead of n − 1, and let it be negative."""
    for shape in SHAPES:
        theirs, c, y = of_events("uncertainty-calibration", shape, 600)
        ours = ece(y, c, of_class=1, debiased=True, **EQUAL_MASS).value
        close(ours, max(theirs["marginal-l1-equal-mass-debiased"], 0), 1e-3)
    theirs, c, y = of_events("uncertainty-calibration", "calibrated", 3000)
    assert theirs["marginal-l1-equal-mass-debiased"] < 0
    assert ece(y, c, of_class=1, debiased=True, **EQUAL_MASS).value == 0


def test_known_difference_a_bin_of_one_row():
    """Kumar's debiased square of one row is 0/0: they count it 0, here the row's announced variance is used.

    To count it 0 is to say that a row proves its bin calibrated. With c(1 − c) for ȳ(1 − ȳ)/(n − 1) the
    expectation is 0 for a calibrated row: (c − y)² has the mean c(1 − c).
    """
    c, y = np.array([0.45, 0.9, 0.9, 0.9, 0.9]), np.array([1, 0, 0, 1, 0])
    pair = (0.9 - 0.25) ** 2 - 0.25 * 0.75 / 3
    assert ece(y, c, of_class=1, **NORMS["l2-debiased"]).value == pytest.approx(
        np.sqrt((0.55**2 - 0.45 * 0.55 + 4 * pair) / 5)
    )
    theirs, p, labels = of_predictions("uncertainty-calibration", 10, 50)
    assert lonely(p.max(axis=1))
    assert theirs["top-label-l2-debiased"] < ece(labels, p, **NORMS["l2-debiased"]).value - 0.05


def test_known_difference_classes_whose_square_is_negative():
    """They set each class's square to 0 where it is negative; here only their mean, which stays unbiased."""
    theirs, p, y = of_predictions("uncertainty-calibration", 3, 50)
    assert theirs["marginal-l2-debiased"] > 0
    assert classwise_ece(y, p, **NORMS["l2-debiased"]).value == 0


def test_known_difference_rows_that_bins_do_not_part_evenly():
    """500 rows in 15 bins: theirs holds 34 rows in the first five bins, here 33 and 34 take turns."""
    theirs, c, y = of_events("uncertainty-calibration", "wiggling", 500)
    order = np.argsort(c)
    gaps = [abs((c[part] - y[part]).sum()) for part in np.array_split(order, 15)]
    close(theirs["marginal-l1-equal-mass"], sum(gaps) / 500)
    ends = -(-np.arange(16) * 500 // 15)
    gaps = [abs((c[part] - y[part]).sum()) for part in np.split(order, ends[1:-1])]
    close(ece(y, c, of_class=1, **EQUAL_MASS).value, sum(gaps) / 500)


# netcal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "n"), BINARY)
def test_mean_and_largest_gap_of_a_class(shape, n):
    theirs, c, y = of_events("netcal", shape, n)
    close(ece(y, c, of_class=1).value, theirs["ece"])
    close(ece(y, c, of_class=1, norm="max").value, theirs["mce"])


@pytest.mark.parametrize(("k", "n"), [(k, n) for k, n in MULTICLASS if k > 2])
def test_mean_and_largest_gap_of_the_top_class(k, n):
    theirs, p, y = of_predictions("netcal", k, n)
    close(ece(y, p).value, theirs["ece"])
    close(ece(y, p, norm="max").value, theirs["mce"])


@pytest.mark.parametrize("n", [600, 3000])
def test_equal_mass_of_netcal(n):
    for shape in ("uniform", "calibrated", "confident", "one-sided", "wiggling"):
        theirs, c, y = of_events("netcal", shape, n)
        close(ece(y, c, of_class=1, **EQUAL_MASS).value, theirs["ece_equal_mass"])


def test_known_difference_two_columns_are_one_class_to_netcal():
    theirs, p, y = of_predictions("netcal", 2, 600)
    close(ece(y, p, of_class=1).value, theirs["ece"])
    assert ece(y, p).value < theirs["ece"] - 3e-3  # the top class's, as of every other number of classes


def test_known_difference_average_calibration_error_counts_bins_alike():
    """netcal's ACE is the plain mean of the bins' gaps; with bins of equal mass that is the ECE."""
    theirs, c, y = of_events("netcal", "confident", 600)
    place = np.ceil(c * 15).astype(int)
    gaps = [abs((c - y)[place == b].mean()) for b in np.unique(place)]
    close(theirs["ace"], np.mean(gaps))
    assert abs(theirs["ace"] - ece(y, c, of_class=1).value) > 1e-2


# model-diagnostics -----------------------------------------------------------------------------------------

PARTS = {
    "calibration": "miscalibration",
    "discrimination": "discrimination",
    "uncertainty": "uncertainty",
    "score": "score",
}


@pytest.mark.parametrize(("shape", "n"), BINARY)
@pytest.mark.parametrize("score", ["brier", "nll"])
@pytest.mark.parametrize("weighted", [False, True])
def test_decomposition(shape, n, score, weighted):
    theirs, c, y = of_events("model-diagnostics", shape, n)
    parts = decompose(y, c, weights(n) if weighted else None, of_class=1, score=score)
    # weighted means of equal confidences are rounded, which 1 − 1e−9 feels
    within = 1e-8 if (shape, weighted) == ("crowded", True) else 1e-9
    for ours, name in PARTS.items():
        close(getattr(parts, ours).value, theirs[score + "-weighted" * weighted][name], within)


# torch-uncertainty -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), MULTICLASS)
def test_area_under_the_risk_coverage_curve(k, n):
    """Theirs is the trapezoid rule from coverage 1/n on, ours the integral from 0: they differ by O(1/n)."""
    theirs, p, y = of_predictions("torch-uncertainty", k, n)
    assert selective_risk(y, p).aurc.value == pytest.approx(theirs, abs=0.7 / n)
