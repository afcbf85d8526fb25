r"""Hutch++: the trace of the part that a few products span, and Hutchinson's probes of what is left.

With Q an orthonormal basis of AS for random signs S,

.. math:: \mathrm{tr} A = \mathrm{tr}\, Q^\top A Q + \mathrm{tr}\,(I - QQ^\top) A (I - QQ^\top) :

the first term is exact, and of the second the probes' error falls with the products, not with their root.
"""

from __future__ import annotations

import torch

from focalcal._settings import check_count
from focalcal.curvature.surface.surface import LossSurface
from focalcal.curvature.trace.probes import TraceEstimate, check_probes, estimated, random_signs


def hutch_pp_trace(
    surface: LossSurface, *, products: int = 30, matrix: str = "hessian", seed: int = 0, level: float = 0.95
) -> TraceEstimate:
    """Return the trace of the Hessian, or of the GGN, by Hutch++: better than plain probes from 30 products.

    Parameters
    ----------
    surface : LossSurface
        The mean loss whose curvature is wanted.
    products : int
        At least 6: a third each for the range, for the trace in it, and for probes.
    matrix : {"hessian", "ggn"}
        The Hessian, or the generalised Gauss–Newton matrix.
    seed : int
        Of the random signs.
    level : float
        Coverage of the interval.

    Returns
    -------
    TraceEstimate
        Nats per squared unit of the parameters; n is the number of products. The interval is Student's, over
        the probes of what is left.

    Raises
    ------
    ValueError
        For fewer than 6 products, or another matrix or level.

    References
    ----------
    Meyer, Musco, Musco and Woodruff 2021, arXiv 2010.09649.

    Examples
    --------
    A matrix of low rank is found exactly; here the GGN of one row, diag(p) − ppᵀ, of trace 1/2:

    >>> model = torch.nn.Linear(1, 2, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> batches = [(torch.ones(1, 1), torch.zeros(1, dtype=torch.long))]
    >>> surface = LossSurface(model, torch.nn.CrossEntropyLoss(), batches)
    >>> round(hutch_pp_trace(surface, products=6).value, 6)
    0.5
    """
    product = surface.product(matrix)
    third = check_count("products", products) // 3
    check_probes("probes, a third of the products,", third, level)
    generator = torch.Generator().manual_seed(seed)
    device = surface.parameters.tensors[0].device
    sketch = product(random_signs((surface.size, min(third, surface.size)), generator).to(device))
    basis = torch.linalg.qr(sketch)[0]
    inside = float((basis * product(basis)).sum())
    signs = random_signs((surface.size, third), generator).to(device)
    beside = signs - basis @ (basis.T @ signs)
    values = (beside * product(beside)).sum(0)
    stderr = float(values.std()) / third**0.5
    return estimated(inside + float(values.mean()), stderr, third - 1, products, "Hutch++", level)
