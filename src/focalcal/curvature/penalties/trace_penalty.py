r"""A penalty on the trace of the loss's curvature, whose gradient trains the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from focalcal._settings import check_choice, check_count, check_positive
from focalcal.curvature.penalties.quadratic_forms import Tensors, ggn_form, hessian_form, signs_like
from focalcal.curvature.surface.measuring import measuring
from focalcal.curvature.surface.parameters import Parameters, choose
from focalcal.curvature.surface.passes import Swapped
from focalcal.nn._batches import called, device_of, logits_of


class TracePenalty(torch.nn.Module):
    r"""Add a weight times the trace of the loss's curvature to the loss: flatter minima.

    ``loss = criterion(model(x), y) + penalty(model, criterion, x, y)``

    Parameters
    ----------
    weight : float
        Strength λ > 0, squared units of the parameters: the penalty is λ tr A, in nats. It may be changed.
    every : int
        It is :math:`k\lambda` tr A at each k-th call and 0 at the others: the mean strength is kept.
    matrix : {"ggn", "hessian"}
        A: the generalised Gauss–Newton matrix, or the Hessian.
    probes : int
        Random vectors a call: one is unbiased, and what it gets wrong is averaged over the steps.
    parameters : str or sequence of str, optional
        Names of parameters or of submodules, as in `LossSurface`. Default: all that are trained.
    seed : int
        Of the random signs. Give each rank of a distributed run its own.

    Raises
    ------
    ValueError
        For settings out of range, frozen parameters, or a criterion that does not return one number.

    Notes
    -----
    Hutchinson's estimate: with random signs v, the Jacobian J of the logits z and the mean loss L of a batch,

    .. math:: \mathrm{tr}\, A = \mathrm{E}\, v^\top A v, \qquad
              v^\top A v = (J v)^\top \nabla_z^2 L\, (J v) \quad\text{or}\quad v^\top \nabla_\theta^2 L\, v,

    of which the gradient is taken as it stands: in expectation it is the trace's. A value may be negative
    with "hessian", and with losses that are not convex in the logits, such as focal loss. The batch sketches
    of `structured_trace` would be a sixth cheaper, but they mix rows: on a trained net their gradient had two
    to three times the noise.

    **The surface is that of eval mode**, which `LossSurface` measures by default: BatchNorm takes its running
    statistics, which stay as they are, and dropout drops nothing. With a batch's own statistics rows do not
    count singly. In torch 2.13 the gradient of :math:`v^\top H v` through them, and through LayerNorm, is
    wrong without a word: such layers are computed by elementary operations here.

    It is a mean over rows as the loss is: its expectation is the same under gradient accumulation and with
    DistributedDataParallel, beside the loss's own pass through the wrapper. Autocast is off inside, as second
    derivatives lose too much in half precision; ``scaler.scale(loss + penalty)`` scales both. Compiled models
    have no second derivatives: pass the module as it was before `torch.compile`. `state_dict` keeps the
    number of calls, on which the signs depend.

    Cost, measured on a small CNN with one thread in plain training steps: a step with "ggn" 4.0, with
    "hessian" 7.5; with "ggn" and every=10 on average 1.3.

    References
    ----------
    Kimura and Naganuma 2024, arXiv 2405.00442; Hutchinson 1990, doi:10.1080/03610919008812866.

    Examples
    --------
    The squared error of θ x at x = 2, target 0, is 4 θ², of curvature 8:

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> penalty = TracePenalty(0.1)
    >>> value = penalty(model, torch.nn.MSELoss(), torch.tensor([[2.0]]), torch.zeros(1, 1))
    >>> round(value.item(), 6)
    0.8
    """

    def __init__(
        self,
        weight: float,
        *,
        every: int = 1,
        matrix: str = "ggn",
        probes: int = 1,
        parameters: Any = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.weight, self.every = check_positive("weight", weight), check_count("every", every)
        self.matrix = check_choice("matrix", matrix, ("ggn", "hessian"))
        self.probes, self.chosen, self.seed = check_count("probes", probes), parameters, seed
        self.calls = 0

    def forward(self, model: torch.nn.Module, loss: Any, inputs: Any, target: Any) -> Tensor:
        """Return the penalty for a batch, a scalar.

        Parameters
        ----------
        model : torch.nn.Module
            Returns logits, as in `LossSurface`.
        loss : callable
            The criterion: of (logits, target), its mean over the batch.
        inputs : Tensor, dict or tuple
            Of the batch, on the model's device: a dict is passed by name, a tuple is spread.
        target : Tensor
            Labels of the batch.
        """
        self.calls += 1
        device = device_of(model)
        if self.calls % self.every:
            return torch.zeros((), device=device)
        if isinstance(model, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
            model = model.module
        chosen = _trained(model, self.chosen)
        generator = torch.Generator(device).manual_seed(self.seed + 1_000_003 * self.calls)
        # a pass in train mode moves running statistics unseen by torch, which would go on with the new ones
        copies = {name: buffer.clone() for name, buffer in model.named_buffers()}

        with measuring(model, chosen, train=False), torch.autocast(device.type, enabled=False):
            logits = logits_of(called(Swapped(model, copies), inputs))
            found = self._trace(loss, logits, target, chosen.tensors, generator)
        return found * (self.weight * self.every / self.probes)

    def _trace(
        self, loss: Any, logits: Tensor, target: Any, tensors: Tensors, generator: torch.Generator
    ) -> Tensor:
        """Return the sum of the probes' estimates."""
        value = loss(logits, target)
        if value.dim():
            raise ValueError(
                f"Expected a criterion that returns one number, got shape {tuple(value.shape)}. Use "
                "reduction='mean'."
            )
        form = hessian_form(value, tensors) if self.matrix == "hessian" else ggn_form(value, logits, tensors)
        return sum(
            (form(tuple(signs_like(tensor, generator) for tensor in tensors)) for _ in range(self.probes)),
            start=torch.zeros((), device=logits.device),
        )

    def get_extra_state(self) -> dict[str, int]:
        """Return the number of calls."""
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take the number of calls from a checkpoint."""
        self.calls = state["calls"]

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"weight={self.weight}, every={self.every}, matrix={self.matrix!r}, probes={self.probes}"


def _trained(model: torch.nn.Module, names: Any) -> Parameters:
    """Return the chosen parameters, all of which must be trained."""
    chosen = choose(model, names)
    frozen = [
        name for name, tensor in zip(chosen.names, chosen.tensors, strict=True) if not tensor.requires_grad
    ]
    if frozen:
        raise ValueError(
            f"Expected parameters that are trained, got {frozen[0]!r}, which is frozen. Leave it out."
        )
    return chosen
