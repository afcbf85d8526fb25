"""Every estimate of one set of predictions under a name, for the tests of their common laws."""

import numpy as np

import focalcal
from focalcal.metrics import (
    accuracy,
    brier,
    classwise_ece,
    ece,
    focal_score,
    kernel_ece,
    ks_error,
    nll,
    selective_risk,
    smooth_ece,
    top_label_ece,
)
from focalcal.verdicts import calibration_tests


def named(function, **fixed):
    """Return an estimate with some of its options fixed."""
    return lambda *args, **options: function(*args, **fixed, **options)


def aurc(*args, **options):
    return selective_risk(*args, **options).aurc


def part(name, **fixed):
    """Return one part of a decomposition."""
    return lambda *args, **options: getattr(focalcal.decompose(*args, **fixed, **options), name)


#: Estimates of the top class or of the whole vector: they do not change when classes are permuted.
OF_ALL = {
    "nll": nll,
    "brier": brier,
    "accuracy": accuracy,
    "ece": ece,
    "ece l1 debiased": named(ece, debiased=True),
    "ece l2": named(ece, norm="l2"),
    "ece l2 debiased": named(ece, norm="l2", debiased=True),
    "ece max": named(ece, norm="max"),
    "ece equal mass": named(ece, binning="equal-mass"),
    "ece equal mass l2": named(ece, binning="equal-mass", norm="l2"),
    "classwise": classwise_ece,
    "classwise l2": named(classwise_ece, norm="l2"),
    "classwise max": named(classwise_ece, norm="max"),
    "top label": top_label_ece,
    "smooth": smooth_ece,
    "smooth as relplot": named(smooth_ece, convention="relplot"),
    "ks": ks_error,
    "kernel": named(kernel_ece, bandwidth=0.03),
    "kernel l2": named(kernel_ece, bandwidth=0.03, norm="l2"),
    "kernel top": named(kernel_ece, of="top", bandwidth=0.03),
    "focal": named(focal_score, gamma=2.0),
    "focal proper": named(focal_score, gamma=2.0, proper=True),
    "aurc": aurc,
    "decomposition": part("calibration"),
    "decomposition nll": part("calibration", score="nll"),
    "discrimination": part("discrimination"),
}

#: Estimates of class 1.
OF_CLASS = {
    "ece of": named(ece, of_class=1),
    "ece of, equal mass": named(ece, of_class=1, binning="equal-mass"),
    "ece of, max": named(ece, of_class=1, norm="max"),
    "smooth of": named(smooth_ece, of_class=1),
    "ks of": named(ks_error, of_class=1),
    "kernel of": named(kernel_ece, of_class=1, bandwidth=0.03),
    "decomposition of": part("calibration", of_class=1),
    "refinement of": part("refinement", of_class=1, score="nll"),
}

ESTIMATES = OF_ALL | OF_CLASS

#: Their values have no upper end.
UNBOUNDED = ("nll", "focal", "focal proper", "decomposition nll", "refinement of")

#: Their debiasing counts rows.
COUNTING = ("ece l1 debiased", "ece l2 debiased")

#: Each row is judged by the others, so a copy of it is a new neighbour.
BY_NEIGHBOURS = ("kernel", "kernel l2", "kernel top", "kernel of")

TESTS = {
    method: named(calibration_tests.test_calibration, method=method)
    for method in ("t-cal", "ks", "spiegelhalter")
}


def highest(name, k):
    """Return the largest value an estimate can have."""
    special = {"brier": 2.0, "kernel": 2.0, "kernel l2": np.sqrt(2)}
    return np.inf if name in UNBOUNDED else special.get(name, 1.0)
