r"""The focal calibration map and its inverse on tensors."""

from __future__ import annotations

from torch import Tensor

from focalcal.nn._curves import Gamma, log_h
from focalcal.nn._inverse import inverse_log_probs
from focalcal.nn._odds import class_odds, log_softmax
from focalcal.nn._reduction import check_gamma


def focal_map(logits: Tensor, gamma: Gamma) -> Tensor:
    r"""Return :math:`\log\varphi_\gamma(\mathrm{softmax}(z))`, the focal calibration map.

    Parameters
    ----------
    logits : Tensor of shape (C,) or (N, C, d1, …)
        Logits in nats; float16 and bfloat16 are computed in float32.
    gamma : float or Tensor
        γ ≥ −1: a number, or a tensor of shape () or (N, 1, d1, …); it receives its gradient.

    Returns
    -------
    Tensor of the logits' shape
        Log-probabilities: float32, or float64 for float64 logits.

    Raises
    ------
    ValueError
        For γ < −1 or a tensor γ of another shape.

    Notes
    -----
    :math:`\varphi_\gamma(q)_i = h_\gamma(q_i)/\sum_j h_\gamma(q_j)` with
    :math:`h_\gamma(v) = v / ((1-v)^\gamma - \gamma v (1-v)^{\gamma-1}\log v)`. A network trained
    with focal loss gives its class posterior through the map with the same γ.

    References
    ----------
    Charoenphakdee et al. 2021, arXiv 2011.09172; Komisarenko and Kull 2024, arXiv 2408.11598.

    Examples
    --------
    For γ = 1, h(v) = v / (1 − v − v log v):

    >>> import torch
    >>> focal_map(torch.log(torch.tensor([[0.25, 0.75]])), 1.0).exp()
    tensor([[0.1240, 0.8760]])
    """
    rows, folded = _rows(logits, gamma)
    if not isinstance(gamma, Tensor) and gamma == 0:
        return _restore(log_softmax(rows), logits)
    return _restore(log_softmax(log_h(class_odds(rows), folded)), logits)


def inverse_focal_map(logits: Tensor, gamma: Gamma) -> Tensor:
    r"""Return :math:`\log q` such that :math:`\varphi_\gamma(q) = \mathrm{softmax}(z)`.

    Parameters
    ----------
    logits : Tensor of shape (C,) or (N, C, d1, …)
        Logits or log-probabilities in nats.
    gamma : float or Tensor
        As `focal_map`.

    Returns
    -------
    Tensor of the logits' shape
        Log-probabilities before the map.

    Raises
    ------
    ValueError
        As `focal_map`.

    Notes
    -----
    At most a fixed number of safeguarded Newton steps; derivatives of every order by the implicit function
    theorem.

    Examples
    --------
    >>> import torch
    >>> inverse_focal_map(focal_map(torch.log(torch.tensor([[0.25, 0.75]])), 1.0), 1.0).exp()
    tensor([[0.2500, 0.7500]])
    """
    rows, folded = _rows(logits, gamma)
    return _restore(inverse_log_probs(rows, folded), logits)


def _rows(logits: Tensor, gamma: Gamma) -> tuple[Tensor, Gamma]:
    check_gamma(gamma, -1.0)
    wide = logits.float() if logits.dtype.itemsize == 2 else logits
    rows = wide.unsqueeze(0) if wide.dim() == 1 else wide.movedim(1, -1).reshape(-1, wide.shape[1])
    if not isinstance(gamma, Tensor) or gamma.dim() == 0:
        return rows, gamma if not isinstance(gamma, Tensor) else gamma.to(rows.dtype)
    expected = (logits.shape[0], 1, *logits.shape[2:])
    if tuple(gamma.shape) != expected:
        raise ValueError(
            f"Expected gamma of shape () or {expected}, got {tuple(gamma.shape)}. "
            "The map has one gamma a row: pass a number, or a tensor with one class."
        )
    return rows, gamma.to(rows.dtype).reshape(-1, 1)


def _restore(rows: Tensor, like: Tensor) -> Tensor:
    if like.dim() < 3:
        return rows if like.dim() == 2 else rows.squeeze(0)
    n, n_classes, *rest = like.shape
    return rows.reshape(n, *rest, n_classes).movedim(-1, 1)
