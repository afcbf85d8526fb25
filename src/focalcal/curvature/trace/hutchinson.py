r"""Hutchinson's estimate of a trace: :math:`\mathrm{E}\,v^\top A v = \mathrm{tr} A` for random signs v."""

from __future__ import annotations

import torch

from focalcal.curvature.surface.surface import LossSurface
from focalcal.curvature.trace.probes import check_probes, over_probes, random_signs
from focalcal.intervals.estimate import Estimate

#: Probes that share the graph of a batch.
_TOGETHER = 8


def hutchinson_trace(
    surface: LossSurface, *, probes: int = 10, matrix: str = "hessian", seed: int = 0, level: float = 0.95
) -> Estimate:
    r"""Return the trace of the Hessian, or of the GGN, with the standard error that the probes leave.

    Parameters
    ----------
    surface : LossSurface
        The mean loss whose curvature is wanted.
    probes : int
        Random vectors, at least 2: the error falls with their square root.
    matrix : {"hessian", "ggn"}
        The Hessian, or the generalised Gauss–Newton matrix.
    seed : int
        Of the random signs.
    level : float
        Coverage of the interval.

    Returns
    -------
    Estimate
        Nats per squared unit of the parameters; n is the number of probes. The interval is Student's, over
        probes: it says nothing of the data, which are taken as given.

    Raises
    ------
    ValueError
        For fewer than 2 probes, or another matrix or level.

    Notes
    -----
    The variance of one probe is :math:`2 \sum_{i \ne j} A_{ij}^2`: a diagonal matrix is found exactly. Where
    few eigenvalues carry the trace the probes' distribution is skewed: 95 % intervals of 3 to 50 probes
    covered the trace of a GGN of two classes in 91 to 94 %, and that of its Hessian in 95 to 96 %.

    References
    ----------
    Hutchinson 1990, doi:10.1080/03610919008812866.

    Examples
    --------
    The squared error of θ x at x = 1 and 2, target 0, is 2.5 θ²:

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> batches = [(torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1))]
    >>> print(hutchinson_trace(LossSurface(model, torch.nn.MSELoss(), batches), probes=2))
    5.0000 [5.0000, 5.0000] (n=2)
    """
    product = surface.product(matrix)
    check_probes("probes", probes, level)
    generator = torch.Generator().manual_seed(seed)
    device = surface.parameters.tensors[0].device
    found: list[torch.Tensor] = []
    for first in range(0, probes, _TOGETHER):
        count = min(_TOGETHER, probes - first)
        signs = random_signs((surface.size, count), generator).to(device)
        found.append((signs * product(signs)).sum(0))
    return over_probes(torch.cat(found), "Hutchinson's probes", level)
