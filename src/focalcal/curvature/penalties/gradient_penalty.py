r"""A penalty on the norm of the loss's gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from focalcal._settings import check_count, check_positive
from focalcal.curvature.surface.parameters import choose


class GradientNormPenalty(torch.nn.Module):
    r"""Add a weight times the norm of the loss's gradient to the loss: flatter minima.

    ``loss = criterion(model(x), y); loss = loss + penalty(loss, model)``

    Parameters
    ----------
    weight : float
        Strength λ > 0, in units of the parameters: the penalty is λ ‖∇L‖₂ (the norm, not its square, as in
        the paper), in nats. It may be changed.
    every : int
        The penalty is k λ ‖∇L‖ at each k-th call and 0 at the others: the mean strength is kept.
    parameters : str or sequence of str, optional
        Names of parameters or of submodules, as in `LossSurface`. Default: all that are trained.

    Raises
    ------
    ValueError
        For settings out of range, or a loss that is not one number with a graph.

    Notes
    -----
    Its gradient is :math:`\lambda \nabla^2 L\, \nabla L / \lVert \nabla L \rVert`, by double backward through
    the loss's own graph: in train mode, with dropout as it fell and the batch's statistics. Fused attention
    has no second derivatives: call the model under
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``. Compiled models have none either, and torch 2.13's
    `weight_norm` has wrong ones, without a word.

    The norm is that of the gradient of one batch, on each rank and in each accumulated batch its own; noise
    makes it larger than that of the mean. Give it the loss before a GradScaler scales it, and scale the sum.

    Cost, measured on a small CNN with one thread: 3.0 plain training steps, so 1.2 on average with every=10.

    References
    ----------
    Zhao, Zhang and Hu 2022, arXiv 2202.03599, which approximates the gradient as SAM does.

    Examples
    --------
    The gradient of θ² is 2 θ, at θ = 1:

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> loss = model(torch.ones(1)).square().sum()
    >>> round(GradientNormPenalty(0.1)(loss, model).item(), 6)
    0.2
    """

    def __init__(self, weight: float, *, every: int = 1, parameters: Any = None) -> None:
        super().__init__()
        self.weight, self.every = check_positive("weight", weight), check_count("every", every)
        self.chosen, self.calls = parameters, 0

    def forward(self, loss: Tensor, model: torch.nn.Module) -> Tensor:
        """Return the penalty, a scalar.

        Parameters
        ----------
        loss : Tensor
            The mean loss of a batch, with its graph.
        model : torch.nn.Module
            Whose parameters the gradient is in.
        """
        if loss.dim() or not loss.requires_grad:
            raise ValueError(
                f"Expected the loss as one number with its graph, got shape {tuple(loss.shape)}, "
                f"requires_grad={loss.requires_grad}. Pass it as it comes from the criterion."
            )
        self.calls += 1
        if self.calls % self.every:
            return torch.zeros((), device=loss.device)
        tensors = [tensor for tensor in choose(model, self.chosen).tensors if tensor.requires_grad]
        slopes = torch.autograd.grad(loss, tensors, create_graph=True, allow_unused=True)
        norms = [torch.linalg.vector_norm(slope).to(loss.device) for slope in slopes if slope is not None]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return norm * (self.weight * self.every)

    def get_extra_state(self) -> dict[str, int]:
        """Return the number of calls."""
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take the number of calls from a checkpoint."""
        self.calls = state["calls"]

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"weight={self.weight}, every={self.every}"
