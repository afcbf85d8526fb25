r"""The temperature map, the focal calibration map and its inverse, on log-probabilities.

.. math:: h_\gamma(v) = \frac{v}{(1-v)^\gamma - \gamma v (1-v)^{\gamma-1}\log v}, \qquad
          \varphi_\gamma(q)_i = \frac{h_\gamma(q_i)}{\sum_j h_\gamma(q_j)}

Everything happens in the log domain, in float64, and is exact for gaps of thousands of nats: the top
class's :math:`1-q` is summed from the other classes, never subtracted from one.

References
----------
Charoenphakdee et al. 2021, arXiv 2011.09172, Theorem 11; Komisarenko and Kull, ECAI 2024, arXiv 2408.11598.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from focalcal import kernels
from focalcal._settings import check_gamma, check_temperature
from focalcal._validate import SUM_TOLERANCE, Input, as_scores, check_scores, class_count, to_logits
from focalcal.engine import map_sum, row_slices
from focalcal.kernels import loops
from focalcal.kernels.reference_map import log_focal_inverse, map_block, unmasked

Floats = NDArray[np.floating[Any]]

#: Elements that one thread maps at a time, and those below which threads do not pay.
_MAP_ELEMENTS, _WORTH_SPLITTING = 1 << 20, 1 << 18


def temperature_map(logits: ArrayLike, temperature: float) -> Floats:
    r"""Return the log-probabilities :math:`\log\mathrm{softmax}(z/T)`.

    Parameters
    ----------
    logits : array of shape (n, K), float16, float32 or float64
        Logits in nats; −inf marks a class that cannot occur.
    temperature : float
        T > 0.

    Returns
    -------
    array of shape (n, K)
        Log-probabilities; float64 for float64 input, otherwise float32.

    Raises
    ------
    ValueError
        For a temperature that is not positive, NaN or +inf among the logits, a row of only −inf.

    References
    ----------
    Guo et al. 2017, arXiv 1706.04599.

    Examples
    --------
    >>> import numpy as np
    >>> np.exp(temperature_map([[0.0, 2 * np.log(3)]], temperature=2.0)).round(3)
    array([[0.25, 0.75]])
    """
    temperature = check_temperature(temperature)
    return map_scores(_as_table(logits), "logits", temperature, 0.0, name="log_probs")


def focal_map(log_probs: ArrayLike, gamma: float) -> Floats:
    r"""Return :math:`\log\varphi_\gamma(q)`, the focal calibration map, for :math:`q` = softmax(log_probs).

    A network trained with focal loss of the same γ gives back the class posterior through this map.

    Parameters
    ----------
    log_probs : array of shape (n, K), float16, float32 or float64
        Log-probabilities, or logits: a constant added to a row changes nothing.
    gamma : float
        Focal parameter γ ≥ −1; 0 is the identity.

    Returns
    -------
    array of shape (n, K)
        Log-probabilities; float64 for float64 input, otherwise float32. Order of the classes, and so
        accuracy, are unchanged.

    Raises
    ------
    ValueError
        For γ < −1, NaN or +inf among the values, a row of only −inf.

    Notes
    -----
    For γ > 0 confidence is raised (max φ ≥ max q) whenever max q ≥ `raising_threshold` (γ), and in every
    search made for K ≤ 3; not in general: K = 10, γ = 1, q = (.13, .0967 × 9) gives .1294.

    References
    ----------
    Komisarenko and Kull, ECAI 2024, arXiv 2408.11598.

    Examples
    --------
    For γ = 1, h(v) = v / (1 − v − v log v):

    >>> import numpy as np
    >>> np.exp(focal_map(np.log([[0.25, 0.75]]), gamma=1.0)).round(4)
    array([[0.124, 0.876]])
    """
    gamma = check_gamma(gamma)
    return map_scores(_as_table(log_probs), "logits", 1.0, gamma, name="log_probs")


def inverse_focal_map(log_probs: ArrayLike, gamma: float) -> Floats:
    r"""Return :math:`\log q` such that :math:`\varphi_\gamma(q)` = softmax(log_probs).

    Parameters
    ----------
    log_probs : array of shape (n, K), float16, float32 or float64
        Calibrated log-probabilities.
    gamma : float
        Focal parameter γ ≥ −1.

    Returns
    -------
    array of shape (n, K)
        Log-probabilities before the map; float64 for float64 input, otherwise float32.

    Raises
    ------
    ValueError
        For γ < −1, NaN or +inf among the values, a row of only −inf.

    Notes
    -----
    One unknown a row, the log-odds against the top class, is found by bracketing; the other classes follow
    from their ratios :math:`h(q_j)/h(q_m) = p_j/p_m`, by Newton's method.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.log([[0.2, 0.3, 0.5]])
    >>> np.exp(focal_map(inverse_focal_map(p, 2.0), 2.0)).round(12)
    array([[0.2, 0.3, 0.5]])
    """
    gamma = check_gamma(gamma)
    scores = _as_table(log_probs)
    check_scores(scores, "logits", "log_probs")
    out = np.empty(scores.shape, np.float64 if scores.dtype == np.float64 else np.float32)
    for rows in row_slices(*scores.shape):
        out[rows] = unmasked(scores[rows].astype(np.float64), lambda block: log_focal_inverse(block, gamma))
    return out


def binary_focal_map(logit: ArrayLike, gamma: float) -> NDArray[np.float64]:
    r"""Return :math:`\psi_\gamma(s) = \mathrm{logit}\,\varphi_\gamma(\mathrm{sigmoid}(s))`, the binary form.

    Parameters
    ----------
    logit : array of any shape
        Log-odds s of the second of two classes.
    gamma : float
        Focal parameter γ ≥ −1.

    Returns
    -------
    array of the same shape, float64
        Log-odds after the map; odd in s, and between s/T for the two `temperature_bounds`.

    Examples
    --------
    >>> import numpy as np
    >>> float(binary_focal_map(np.log(3), 1.0).round(4))  # .75 becomes .876
    1.9549
    """
    s = np.asarray(logit, dtype=np.float64)
    flat = np.stack([np.zeros(s.size), s.ravel()], axis=1)
    mapped = focal_map(flat, gamma)
    return (mapped[:, 1] - mapped[:, 0]).reshape(s.shape)


def temperature_bounds(gamma: float) -> tuple[float, float]:
    r"""Return the lower and the upper temperature between which the binary focal map lies.

    Parameters
    ----------
    gamma : float
        Focal parameter in (−1, 100].

    Returns
    -------
    tuple of float
        :math:`1/(\gamma+1)` and :math:`1/(\gamma+1-\tfrac12\log(\gamma+1))`, in increasing order: for
        s > 0, :math:`\psi_\gamma(s)` lies between s divided by the one and by the other.

    References
    ----------
    Komisarenko and Kull, ECAI 2024, arXiv 2408.11598.

    Examples
    --------
    >>> [round(bound, 3) for bound in temperature_bounds(1.0)]
    [0.5, 0.605]
    """
    gamma = check_gamma(gamma)
    if not -1 < gamma <= 100:
        raise ValueError(f"Expected -1 < gamma <= 100, where the bounds are shown to hold, got {gamma}.")
    one, other = 1 / (gamma + 1), 1 / (gamma + 1 - math.log(gamma + 1) / 2)
    return min(one, other), max(one, other)


def raising_threshold(gamma: float) -> float:
    r"""Return τ(γ): the focal map raises every top probability at or above it, for any number of classes.

    Parameters
    ----------
    gamma : float
        Focal parameter γ > 0.

    Returns
    -------
    float
        The non-zero root of
        :math:`a_\gamma(\tau) = (1-\tau)^\gamma - \gamma\tau(1-\tau)^{\gamma-1}\log\tau = 1`.

    Examples
    --------
    >>> round(raising_threshold(1.0), 3)
    0.368
    """
    gamma = check_gamma(gamma)
    if gamma <= 0:
        raise ValueError(f"Expected gamma > 0, got {gamma}. At or below 0 the map does not raise confidence.")

    def excess(v: float) -> float:  # log a_γ(v): positive just above 0, negative near 1
        rest = 1 - v
        return gamma * math.log(rest) + math.log1p(-gamma * v * math.log(v) / rest)

    return float(brentq(excess, 1e-3 / (1 + gamma), 1 - 1e-9, xtol=1e-15))


def map_scores(
    scores: Floats,
    kind: Input,
    temperature: float,
    gamma: float,
    *,
    probabilities: bool = False,
    name: str = "X",
) -> Floats:
    """Return log φ_γ(softmax(z / T)) of scores (n, K) or (n,), or its exponential; checks every value."""
    n, n_classes = len(scores), class_count(scores)
    out = np.empty((n, n_classes), np.float64 if scores.dtype == np.float64 else np.float32)
    if kernels.compiled() is not None and 1e-30 < temperature < 1e30:  # whose inverse is a float32
        task = _MapRows(scores, kind, temperature, gamma, probabilities, out)
        slices = row_slices(n, n_classes, elements=_MAP_ELEMENTS)
        wrong: int = map_sum(task, slices, threads=out.size > _WORTH_SPLITTING)
        if not wrong:
            return out
    check_scores(scores, kind, name)
    for rows in row_slices(n, n_classes):
        out[rows] = map_block(to_logits(scores[rows], kind).astype(np.float64), temperature, gamma)
        if probabilities:
            np.exp(out[rows], out=out[rows])
    return out


@dataclass(frozen=True)
class _MapRows:
    """Fill some rows with the compiled loops; returns the number of slices that are not valid."""

    scores: Floats
    kind: Input
    temperature: float
    gamma: float
    probabilities: bool
    out: Floats

    def __call__(self, rows: slice) -> int:
        scores = self.scores[rows]
        valid = loops.map_rows(
            scores.astype(np.float32) if scores.dtype == np.float16 else scores,
            self.temperature,
            self.gamma,
            self.out[rows],
            is_probs=self.kind == "probs",
            tolerance=SUM_TOLERANCE[scores.dtype.name],
            probabilities=self.probabilities,
        )
        return int(not valid)


def _as_table(values: ArrayLike) -> Floats:
    scores = as_scores(values, "log_probs")
    if scores.ndim == 1:
        raise ValueError(
            f"Expected shape (n, K), a column a class, got {scores.shape}. Pass both columns of two classes."
        )
    return scores
