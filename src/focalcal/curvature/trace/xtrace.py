r"""XTrace: every vector serves the range that is found exactly and, in its turn, as the probe of the rest.

With Y = AΩ for k vectors, and :math:`Q_{-i}` a basis of all columns of Y but the i-th,

.. math:: t_i = \mathrm{tr}\, Q_{-i}^\top A Q_{-i} + c_i\, \omega_i^\top (I - Q_{-i} Q_{-i}^\top)
          A (I - Q_{-i} Q_{-i}^\top)\, \omega_i

estimates the trace without bias, with :math:`c_i = (P - k + 1) / \|(I - Q_{-i} Q_{-i}^\top) \omega_i\|^2` for
ω of random direction. All :math:`Q_{-i}` are had from one QR factorisation: :math:`Q_{-i} Q_{-i}^\top =
Q (I - s_i s_i^\top) Q^\top`, where :math:`s_i` is the i-th column of :math:`R^{-\top}`, normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor

from focalcal._settings import check_count
from focalcal.curvature.surface.surface import LossSurface
from focalcal.curvature.trace.probes import TraceEstimate, check_probes, estimated


def xtrace(
    surface: LossSurface, *, products: int = 30, matrix: str = "hessian", seed: int = 0, level: float = 0.95
) -> TraceEstimate:
    """Return the trace of the Hessian, or of the GGN, by XTrace: the best by products alone from about 30.

    Parameters
    ----------
    surface : LossSurface
        The mean loss whose curvature is wanted.
    products : int
        At least 4, half of them for the range; memory for as many vectors of P numbers.
    matrix : {"hessian", "ggn"}
        The Hessian, or the generalised Gauss–Newton matrix.
    seed : int
        Of the random vectors.
    level : float
        Coverage of the interval.

    Returns
    -------
    TraceEstimate
        Nats per squared unit of the parameters; n is the number of products. The interval is Student's, of
        twice the variance that the estimates' spread tells.

    Raises
    ------
    ValueError
        For fewer than 4 products, more vectors than parameters, or another matrix or level.

    Notes
    -----
    The estimates are not independent: a vector is another one's range. An error that two vectors make
    together is in both their estimates, so that the spread tells half of its variance; in all it was seen to
    tell 0.5 to 0.7 where eigenvalues fall, 0.9 where they do not. Intervals of 95 % covered the traces of
    networks in 93 to 97 %, and that of eigenvalues 0.7^i with 12 products in 88 %.

    References
    ----------
    Epperly, Tropp and Webber 2024, arXiv 2301.07825.

    Examples
    --------
    A matrix of low rank is found exactly; here the GGN of one row, (diag(p) − ppᵀ) ⊗ xxᵀ, of trace 1:

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> batches = [(torch.ones(1, 2), torch.zeros(1, dtype=torch.long))]
    >>> surface = LossSurface(model, torch.nn.CrossEntropyLoss(), batches)
    >>> round(xtrace(surface, products=6).value, 6)
    1.0
    """
    product = surface.product(matrix)
    k = check_count("products", products) // 2
    check_probes("vectors, half of the products,", k, level)
    if k >= surface.size:
        raise ValueError(f"Expected fewer vectors than the {surface.size} parameters, got {k}.")
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(surface.size, k, generator=generator, dtype=torch.float64)
    vectors = (vectors * (surface.size**0.5 / vectors.norm(dim=0))).to(surface.parameters.tensors[0].device)
    moved = product(vectors)  # (P, k)
    basis, r = torch.linalg.qr(moved)
    found = _each(vectors, moved, basis, r, product(basis))
    stderr = float(found.std()) * (2 / k) ** 0.5
    return estimated(float(found.mean()), stderr, k - 1, products, "XTrace", level)


def _each(vectors: Tensor, moved: Tensor, basis: Tensor, r: Tensor, beyond: Tensor) -> Tensor:
    """Return the estimates (k,), each with one vector left out of the range."""
    size, k = vectors.shape
    # of a matrix of low rank the last columns of Q are arbitrary, and leaving one of them out changes nothing
    scale = r.diagonal().abs()
    floor = max(float(scale.max()) * 1e-12, 1e-100)
    left = torch.linalg.inv(r + torch.diag((scale < floor).to(r) * floor)).T
    s = torch.nn.functional.normalize(left, dim=0)
    inner, w, across = basis.T @ beyond, basis.T @ vectors, beyond.T @ vectors  # (k, k) each
    u = w - s * (s * w).sum(0)
    own = (vectors * moved).sum(0) - 2 * (u * across).sum(0) + (u * (inner @ u)).sum(0)
    inside = inner.trace() - (s * (inner @ s)).sum(0)
    return inside + own * (size - k + 1) / (size - u.square().sum(0))
