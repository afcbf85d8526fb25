"""Scores that are means over rows, and what they say without labels."""

from __future__ import annotations

from typing import Any

from focalcal._validate import check_level
from focalcal.estimate import Estimate
from focalcal.judging import judge, warn_of_impossible
from focalcal.resample import estimate_mean, estimate_share


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
