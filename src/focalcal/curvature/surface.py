r"""The loss of a model over a data set as a function of its parameters: value, gradient, products.

With :math:`L(\theta) = \sum_i w_i \ell(z_i(\theta), y_i) / \sum_i w_i` and J the Jacobian of the logits z,

.. math:: \nabla^2 L = \frac{1}{\sum_i w_i} \sum_i w_i \Bigl( J_i^\top (\nabla_z^2 \ell_i) J_i
          + \sum_k \frac{\partial \ell_i}{\partial z_{ik}} \nabla^2 z_{ik} \Bigr);

the first term is the generalised Gauss–Newton matrix (GGN).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from focalcal._settings import check_choice
from focalcal.curvature.measuring import measuring, same_noise
from focalcal.curvature.parameters import choose
from focalcal.curvature.totals import Loss, batch_total
from focalcal.nn._batches import Unpack, called, device_of, logits_of, moved, parts


class LossSurface:
    r"""The mean loss over a data set, as a function of some of a model's parameters.

    Parameters
    ----------
    model : torch.nn.Module
        Returns logits: a tensor, a tuple's first entry, or `.logits` or ["logits"].
    loss : callable
        Of (logits, target). A module with `reduction`, torch's or `focalcal.nn`'s, is averaged over all rows
        as its own mean averages over a batch (class weights, ignored rows); any other callable returns the
        mean over the rows of a batch.
    loader : iterable of batches
        Pairs (inputs, target), or dicts with "labels"; it is read once for each product, and must give the
        same batches. Their sizes may differ: every row counts alike.
    parameters : str or sequence of str, optional
        Names of parameters or of submodules. Default: all that require gradients.
    mode : {"eval", "train"}
        "train" measures what BatchNorm and dropout do in training: BatchNorm then couples the rows of a
        batch, so that the surface depends on the batches.
    device : torch.device or str, optional
        Where inputs are sent. Default: where the model's first parameter is.
    unpack : callable, optional
        From any other kind of batch to (inputs, target).
    seed : int
        Of the noise in "train" mode; it is the same in every pass.

    Raises
    ------
    ValueError, TypeError
        For names that the model does not have, an empty loader, batches of an unknown kind.

    Notes
    -----
    Products go through the model's own code, one batch at a time, and are summed in float64. Tied parameters
    are one, frozen ones are constants. Modes, flags and buffers are given back, also after an exception.

    Examples
    --------
    The squared error of θ x at x = 1 and 2, target 0, is 2.5 θ²:

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> batches = [(torch.tensor([[1.0]]), torch.zeros(1, 1)), (torch.tensor([[2.0]]), torch.zeros(1, 1))]
    >>> LossSurface(model, torch.nn.MSELoss(), batches).hessian_product(torch.ones(1))
    tensor([5.], dtype=torch.float64)
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Loss,
        loader: Iterable[Any],
        *,
        parameters: str | Iterable[str] | None = None,
        mode: str = "eval",
        device: torch.device | str | None = None,
        unpack: Unpack | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.loss, self.loader = model, loss, loader
        self.parameters = choose(model, parameters)
        self.mode, self.seed = check_choice("mode", mode, ("eval", "train")), seed
        self.device = torch.device(device) if device is not None else device_of(model)
        self.unpack = unpack or parts

    @property
    def size(self) -> int:
        """Number of scalars P that the surface is a function of."""
        return self.parameters.size

    def value(self) -> float:
        """Return the mean loss."""

        def visit(inputs: Any, target: Any, found: Tensor) -> float:
            with torch.no_grad():
                total, weight = self.total(self.logits(inputs), target)
            found[0, 0] += total
            return weight

        return float(self.mean_of(visit, torch.zeros(1, 1, dtype=torch.float64, device=self.device)))

    def gradient(self) -> Tensor:
        """Return the gradient of the mean loss, float64 (P,)."""

        def visit(inputs: Any, target: Any, found: Tensor) -> float:
            total, weight = self.total(self.logits(inputs), target)
            found[:, 0] += self.parameters.join(self.pulled(total))
            return weight

        return self.mean_of(visit, self._zeros(1))[:, 0]

    def hessian_product(self, vectors: Tensor) -> Tensor:
        """Return the Hessian times one vector (P,) or several (P, m), float64 of the same shape.

        By double backward: one graph a batch serves all vectors.
        """
        columns = self._columns(vectors)

        def visit(inputs: Any, target: Any, found: Tensor) -> float:
            total, weight = self.total(self.logits(inputs), target)
            slopes = self.pulled(total, create_graph=True)
            curved = [i for i, slope in enumerate(slopes) if slope.requires_grad]
            for j in range(columns.shape[1] if curved else 0):
                vector = self.parameters.split(columns[:, j])
                own, along = [slopes[i] for i in curved], [vector[i] for i in curved]
                product = self.pulled(own, along, retain_graph=j + 1 < columns.shape[1])
                found[:, j] += self.parameters.join(product)
            return weight

        return self.mean_of(visit, self._zeros(columns.shape[1])).reshape(vectors.shape)

    def ggn_product(self, vectors: Tensor) -> Tensor:
        """Return the generalised Gauss–Newton matrix times one vector (P,) or several (P, m), as float64.

        Forward mode through the model, the loss's Hessian at the logits, and one backward pass.
        """
        columns = self._columns(vectors)

        def visit(inputs: Any, target: Any, found: Tensor) -> float:
            weight = 0.0
            for j in range(columns.shape[1]):
                logits, along = self._pushed(inputs, columns[:, j])
                at = logits.detach().requires_grad_()
                total, weight = self.total(at, target)
                (slope,) = torch.autograd.grad(total, at, create_graph=True)
                if slope.requires_grad:
                    (bent,) = torch.autograd.grad(slope, at, along, materialize_grads=True)
                    found[:, j] += self.parameters.join(self.pulled(logits, bent))
            return weight

        return self.mean_of(visit, self._zeros(columns.shape[1])).reshape(vectors.shape)

    def mean_of(self, visit: Callable[[Any, Any, Tensor], float], found: Tensor) -> Tensor:
        """Let a visitor add each batch's sum to what was found, and divide by the weights it returns."""
        weight = 0.0
        with measuring(self.model, self.parameters, train=self.mode == "train"):
            for i, batch in enumerate(self.loader):
                inputs, target = self.unpack(batch)
                with same_noise(self.seed + i, self.device):
                    weight += visit(moved(inputs, self.device), moved(target, self.device), found)
        if weight <= 0:
            raise ValueError(
                "Expected rows to measure, got none: the loader is empty or was read before, or every label "
                "is ignored. Pass a loader that can be read again: a DataLoader, or a list of batches."
            )
        return found / weight

    def logits(self, inputs: Any) -> Tensor:
        """Return the model's logits for the inputs of a batch."""
        return logits_of(called(self.model, inputs))

    def _pushed(self, inputs: Any, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits with their graph, and their change along a vector of parameters."""
        parts = zip(
            self.parameters.names, self.parameters.tensors, self.parameters.split(vector), strict=True
        )
        with forward_ad.dual_level():
            make: Any = forward_ad.make_dual
            duals = {name: make(tensor, part) for name, tensor, part in parts}
            moving = _Swapped(self.model, duals)
            unpack: Any = forward_ad.unpack_dual
            logits, along = unpack(logits_of(called(moving, inputs)))
        return logits, torch.zeros_like(logits) if along is None else along.detach()

    def total(self, logits: Tensor, target: Any) -> tuple[Tensor, float]:
        """Return a batch's summed loss, and the weight that a mean divides it by."""
        return batch_total(self.loss, logits, target)

    def pulled(self, of: Any, upstream: Any = None, **options: bool) -> Any:
        """Return gradients in the parameters, as a tuple, zeros for those that are not used."""
        wanted = self.parameters.tensors
        return torch.autograd.grad(of, wanted, upstream, allow_unused=True, materialize_grads=True, **options)

    def _columns(self, vectors: Tensor) -> Tensor:
        if vectors.dim() not in (1, 2) or vectors.shape[0] != self.size or not vectors.is_floating_point():
            raise ValueError(
                f"Expected vectors of shape ({self.size},) or ({self.size}, m), as many rows as there are "
                f"parameters, got {vectors.dtype} of shape {tuple(vectors.shape)}."
            )
        return vectors.reshape(self.size, -1)

    def _zeros(self, columns: int) -> Tensor:
        device = self.parameters.tensors[0].device
        return torch.zeros(self.size, columns, dtype=torch.float64, device=device)


class _Swapped(torch.nn.Module):
    """A model that is called with other parameters."""

    def __init__(self, model: torch.nn.Module, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.values = model, values

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(self.model, self.values, args, kwargs, tie_weights=True)
