"""The metrics one by one; each takes labels and scores and returns an `Estimate`."""

from __future__ import annotations

from typing import Any

from focalcal._validate import check_bins, check_choice, check_level
from focalcal.estimate import Estimate
from focalcal.evaluation import Evaluation, evaluate
from focalcal.judging import judge, warn_of_impossible
from focalcal.resample import estimate_gap_sum, estimate_mean, estimate_share

__all__ = ["Evaluation", "accuracy", "brier", "classwise_ece", "ece", "evaluate", "nll"]


def nll(
    y_true: Any,
    y_prob: Any,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    level: float = 0.95,
) -> Estimate:
    """Compute the negative log-likelihood: the mean of −log p of the label, in nats.

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, level
        As in `evaluate`.

    Returns
    -------
    Estimate
        The weighted mean with its standard error and normal interval.

    Notes
    -----
    Computed in the log domain: a confident hit counts its true, tiny loss rather than 0. Probabilities are
    taken as given, not normalised; below 1e-30 they count as 1e-30 and a warning says how often. A logit
    of −inf at a label makes the NLL infinite.

    Examples
    --------
    >>> round(nll([0, 1], [[0.5, 0.5], [0.75, 0.25]]).value, 6)  # (log 2 + log 4) / 2
    1.039721
    """
    check_level(level)
    sums, rows = judge(y_true, y_prob, sample_weight, input, classes)
    warn_of_impossible(sums, rows.n)
    return estimate_mean(sums.nll, rows.n, level)


def brier(
    y_true: Any,
    y_prob: Any,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    level: float = 0.95,
) -> Estimate:
    """Compute the Brier score: the mean over rows of the squared error summed over classes, in [0, 2].

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, level
        As in `evaluate`.

    Returns
    -------
    Estimate
        The weighted mean with its standard error and normal interval.

    Notes
    -----
    Σ_k (p_k − [y = k])², Brier's own definition. For two classes scikit-learn's ``brier_score_loss`` gives
    half of it by default; some papers divide by K.

    Examples
    --------
    >>> brier([0, 1], [[0.5, 0.5], [0.75, 0.25]]).value  # (0.5 + 1.125) / 2
    0.8125
    """
    check_level(level)
    sums, rows = judge(y_true, y_prob, sample_weight, input, classes)
    return estimate_mean(sums.brier, rows.n, level)


def accuracy(
    y_true: Any,
    y_prob: Any,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    level: float = 0.95,
) -> Estimate:
    """Compute the share of rows whose most probable class is the label (of equal ones, the first counts).

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, level
        As in `evaluate`.

    Returns
    -------
    Estimate
        The weighted share with its standard error and Wilson's interval, taken at (Σw)²/Σw² rows.

    Examples
    --------
    >>> accuracy([0, 1], [[0.5, 0.5], [0.75, 0.25]]).value
    0.5
    """
    check_level(level)
    sums, rows = judge(y_true, y_prob, sample_weight, input, classes)
    return estimate_share(sums.accuracy, rows.n, level)


def ece(
    y_true: Any,
    y_prob: Any,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    bins: int = 15,
    binning: str = "equal-width",
    level: float = 0.95,
) -> Estimate:
    """Compute the expected calibration error of the top class, Σ_b share_b |confidence_b − hit rate_b|.

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, level
        As in `evaluate`.
    bins : int
        Number of bins.
    binning : {"equal-width", "equal-mass"}
        Edges at 0, 1/bins, …, 1, or edges that part the weight evenly without parting equal confidences.

    Returns
    -------
    Estimate
        The plug-in value; the interval allows for its upward bias, so it may lie below the value.

    See Also
    --------
    classwise_ece : judges every class's probability, not only the top one.

    Notes
    -----
    Bins are (l, u], 0 falls in the first and 1 in the last; edges are rounded to the precision of `y_prob`
    first. See `focalcal.resample.estimate_gap_sum` for the interval and its measured coverage.

    References
    ----------
    Guo et al. 2017, arXiv:1706.04599.

    Examples
    --------
    >>> ece([1, 1, 1, 0], [0.75, 0.75, 0.75, 0.75]).value
    0.0
    >>> ece([1, 1], [0.95, 1.0]).value  # both in the last bin: |0.975 − 1|
    0.025000000000000022
    """
    bins, level = check_bins(bins), check_level(level)
    equal_mass = check_choice("binning", binning, ("equal-width", "equal-mass")) == "equal-mass"
    sums, rows = judge(y_true, y_prob, sample_weight, input, classes, bins=bins, with_confidence=equal_mass)
    binned = sums.top if sums.confidences is None else sums.confidences.equal_mass(bins)
    return estimate_gap_sum(binned, rows.n, level)


def classwise_ece(
    y_true: Any,
    y_prob: Any,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    bins: int = 15,
    level: float = 0.95,
) -> Estimate:
    """Compute the class-wise ECE: the mean over classes of Σ_b share_b |probability_b − rate_b|.

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, level
        As in `evaluate`.
    bins : int
        Number of equal-width bins of each class.

    Returns
    -------
    Estimate
        The plug-in value; the interval allows for its upward bias, so it may lie below the value.

    Notes
    -----
    Divided by K, as in [1]; every class counts the same, however rare. See
    `focalcal.resample.estimate_gap_sum` for the interval and its measured coverage.

    References
    ----------
    [1] Kull et al. 2019, arXiv:1910.12656.

    Examples
    --------
    >>> classwise_ece([0, 0, 1, 1], [[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]]).value
    0.25
    """
    bins, level = check_bins(bins), check_level(level)
    sums, rows = judge(y_true, y_prob, sample_weight, input, classes, bins=bins, with_classes=True)
    assert sums.classwise is not None
    return estimate_gap_sum(sums.classwise, rows.n, level)
