r"""The trace of the generalised Gauss–Newton matrix from the loss's known Hessian in the logits.

With :math:`H_i = \mathrm{E}\, w_i \tilde w_i^\top` the Hessian of row i in its logits,

.. math:: \mathrm{tr} \sum_i J_i^\top H_i J_i =
          \mathrm{E} \Bigl\langle \sum_i J_i^\top w_i, \sum_i J_i^\top \tilde w_i \Bigr\rangle ,

since signs of different rows are independent: one backward pass a batch (two where a row's Hessian is
indefinite), and no second derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from focalcal.curvature.logit_hessian import check_known, logit_hessian
from focalcal.curvature.probes import check_probes, over_probes, random_signs
from focalcal.curvature.surface import LossSurface
from focalcal.intervals.estimate import Estimate


def structured_trace(
    surface: LossSurface, *, sketches: int = 4, seed: int = 0, level: float = 0.95
) -> Estimate:
    r"""Return the trace of the GGN with the standard error that the sketches leave.

    In eval mode, and for networks that are piecewise linear in each layer's parameters (ReLU, max-pooling,
    residual connections, BatchNorm), it is the trace of the Hessian too.

    Parameters
    ----------
    surface : LossSurface
        Of cross-entropy or a loss of the focal family, without label smoothing, on class indices.
    sketches : int
        Random sketches, at least 2; each costs one backward pass through the model.
    seed : int
        Of the random signs.
    level : float
        Coverage of the interval.

    Returns
    -------
    Estimate
        Nats per squared unit of the parameters; n is the number of sketches. The interval is Student's, over
        sketches: it says nothing of the data, which are taken as given.

    Raises
    ------
    ValueError
        For a loss whose Hessian in the logits is not known here, fewer than 2 sketches, another level.

    Examples
    --------
    Of logits θ x at x = 1 and equal probabilities the GGN is diag(p) − ppᵀ, of trace 1/2:

    >>> model = torch.nn.Linear(1, 2, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> batches = [(torch.ones(1, 1), torch.zeros(1, dtype=torch.long))]
    >>> surface = LossSurface(model, torch.nn.CrossEntropyLoss(), batches)
    >>> print(structured_trace(surface, sketches=2))
    0.5000 [0.5000, 0.5000] (n=2)
    """
    check_probes("sketches", sketches, level)
    check_known(surface.loss)
    generator = torch.Generator().manual_seed(seed)

    def visit(inputs: Any, target: Any, found: Tensor) -> float:
        logits = surface.logits(inputs)
        weight = surface.total(logits.detach(), target)[1]
        hessian = logit_hessian(surface.loss, logits, target)
        # the model's own graph serves every sketch; rows are the logits' in another order
        rows = logits if logits.dim() == 2 else logits.movedim(1, -1).reshape(len(hessian.label), -1)
        for j in range(sketches):
            signs = random_signs(tuple(rows.shape), generator)
            w, other = hessian.sketch(signs.to(rows.device, hessian.share.dtype))
            keep = other is not w or j + 1 < sketches
            pulled = surface.parameters.join(surface.pulled(rows, w.to(rows.dtype), retain_graph=keep))
            if other is w:
                found[0, j] += pulled @ pulled
                continue
            again = surface.pulled(rows, other.to(rows.dtype), retain_graph=j + 1 < sketches)
            found[0, j] += pulled @ surface.parameters.join(again)
        return weight

    device = surface.parameters.tensors[0].device
    values = surface.mean_of(visit, torch.zeros(1, sketches, dtype=torch.float64, device=device))
    return over_probes(values[0], "sketched logit Hessian", level)
