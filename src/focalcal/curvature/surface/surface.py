r"""The loss of a model over a data set as a function of its parameters: value, gradient, products.

With :math:`L(\theta) = \sum_i w_i \ell(z_i(\theta), y_i) / \sum_i w_i` and J the Jacobian of the logits z,

.. math:: \nabla^2 L = \frac{1}{\sum_i w_i} \sum_i w_i \Bigl( J_i^\top (\nabla_z^2 \ell_i) J_i
          + \sum_k \frac{\partial \ell_i}{\partial z_{ik}} \nabla^2 z_{ik} \Bigr);

the first term is the generalised Gauss–Newton matrix (GGN).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import torch
from torch import Tensor

from focalcal._settings import check_choice
from focalcal.curvature.surface.kept import Kept
from focalcal.curvature.surface.measuring import computing, prepared
from focalcal.curvature.surface.parameters import choose
from focalcal.curvature.surface.passes import (
    Batch,
    GGNProduct,
    Gradient,
    HessianProduct,
    Sums,
    Task,
    Value,
    added,
    no_rows,
)
from focalcal.curvature.surface.totals import Loss
from focalcal.engine import map_sum
from focalcal.nn._batches import Unpack, device_of, parts

T = TypeVar("T")

#: Parameters that are swapped, forward mode's levels and random numbers are one for all threads of a process;
#: torch's own threads work on every operation anyway.
_ALONE = Lock()


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
    executor : concurrent.futures.Executor, optional
        Where batches are worked on: processes, a cluster. Model, loss and batches are pickled, one batch a
        task. Threads gain nothing: torch has its own.
    distributed : bool
        Sum over the processes of torch.distributed, each of which reads its own batches. A sampler that fills
        up the last batches by repeating rows counts those twice.

    Raises
    ------
    ValueError, TypeError
        For names that the model does not have, an empty loader, batches of an unknown kind.

    Notes
    -----
    Products go through the model's own code, one batch at a time, and are summed in float64. Tied parameters
    are one, frozen ones are constants. Modes, flags and buffers are given back, also after an exception.
    A model in DistributedDataParallel is measured without it: only sums travel.

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
        executor: Executor | None = None,
        distributed: bool = False,
    ) -> None:
        wrapped = isinstance(model, torch.nn.parallel.DistributedDataParallel)
        inner: Any = model.module if wrapped else model
        self.model: torch.nn.Module = inner
        self.loss, self.loader = loss, loader
        self.parameters = choose(self.model, parameters)
        self.mode, self.seed = check_choice("mode", mode, ("eval", "train")), seed
        self.device = torch.device(device) if device is not None else device_of(self.model)
        if isinstance(loader, Iterator):
            raise TypeError(
                f"Expected a loader that can be read again for each pass, got {type(loader).__name__}, which "
                "the first uses up. Pass a DataLoader, or list(...) of the batches."
            )
        if self.device.type == "mps":
            raise ValueError("Expected a device with float64, in which sums are taken, got mps. Use the CPU.")
        self.unpack = unpack or parts
        self.executor, self.distributed = executor, distributed
        self._kept: Kept | None = None
        self._prepared = False

    @property
    def size(self) -> int:
        """Number of scalars P that the surface is a function of."""
        return self.parameters.size

    def value(self) -> float:
        """Return the mean loss."""
        return float(self.means([Value(self.loss)])[0])

    def gradient(self) -> Tensor:
        """Return the gradient of the mean loss, float64 (P,)."""
        return self.means([Gradient(self.loss)])[0]

    def hessian_product(self, vectors: Tensor) -> Tensor:
        """Return the Hessian times one vector (P,) or several (P, m), float64 of the same shape.

        By double backward: one graph a batch serves all vectors.
        """
        return self.means([HessianProduct(self.loss, self._columns(vectors))])[0].reshape(vectors.shape)

    def ggn_product(self, vectors: Tensor) -> Tensor:
        """Return the generalised Gauss–Newton matrix times one vector (P,) or several (P, m), as float64.

        Forward mode through the model, the loss's Hessian at the logits, and one backward pass.
        """
        return self.means([GGNProduct(self.loss, self._columns(vectors))])[0].reshape(vectors.shape)

    def product(self, matrix: str) -> Callable[[Tensor], Tensor]:
        """Return the product with the "hessian" or the "ggn"."""
        check_choice("matrix", matrix, ("hessian", "ggn"))
        return self.hessian_product if matrix == "hessian" else self.ggn_product

    def means(self, tasks: Sequence[Task]) -> list[Tensor]:
        """Return the mean that each task is after, from one pass over the data."""
        return self.sums(tasks).means()

    def sums(self, tasks: Sequence[Task]) -> Sums:
        """Return what tasks sum over the rows, from one pass over the data."""
        with prepared(self.model, self.parameters, train=self.mode == "train"):
            self._prepared = True
            try:
                if self.executor is None:
                    found = added(self._visited(batch, tasks) for batch in self._batches())
                else:
                    work = partial(_worked_on, self, tuple(tasks))
                    found = added([map_sum(work, self._read(), self.executor, threads=False)])
            finally:
                self._prepared = False
        return found.over_ranks() if self.distributed else found

    def first(self, visit: Callable[[Batch], T]) -> T:
        """Return what a visitor makes of the first batch."""
        with prepared(self.model, self.parameters, train=self.mode == "train"), computing():
            for index, inputs, target in self._read():
                return visit(Batch(self, index, inputs, target))
        raise no_rows()

    @contextmanager
    def keeping(self, memory: float) -> Iterator[None]:
        """Keep the graphs of as many batches as take at most `memory` bytes from one pass to the next.

        The parameters must not change meanwhile, and the loader must give the same batches. With an executor
        nothing is kept.
        """
        self._kept = Kept(memory)
        try:
            yield
        finally:
            self._kept = None

    @property
    def keeps(self) -> bool:
        """Whether graphs are kept from one pass to the next."""
        return self._kept is not None

    def _batches(self) -> Iterator[Batch]:
        if self._kept is not None:
            yield from self._kept.batches(self, self._read())
            return
        for index, inputs, target in self._read():
            yield Batch(self, index, inputs, target)

    def _read(self) -> Iterator[tuple[int, Any, Any]]:
        """Yield batches with a number that no other batch of any rank has."""
        ranks = torch.distributed.get_world_size() if self.distributed else 1
        rank = torch.distributed.get_rank() if self.distributed else 0
        for i, raw in enumerate(self.loader):
            inputs, target = self.unpack(raw)
            yield i * ranks + rank, inputs, target

    def _visited(self, batch: Batch, tasks: Sequence[Task]) -> Sums:
        with computing():
            pairs = [task(batch) for task in tasks]
        return Sums(tuple(total for total, _ in pairs), tuple(weight for _, weight in pairs))

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what stays in this process."""
        own = {"loader": (), "executor": None, "unpack": None, "_kept": None, "_prepared": False}
        return self.__dict__ | own

    def _columns(self, vectors: Tensor) -> Tensor:
        if vectors.dim() not in (1, 2) or vectors.shape[0] != self.size or not vectors.is_floating_point():
            raise ValueError(
                f"Expected vectors of shape ({self.size},) or ({self.size}, m), as many rows as there are "
                f"parameters, got {vectors.dtype} of shape {tuple(vectors.shape)}."
            )
        return vectors.reshape(self.size, -1).to(self.parameters.tensors[0].device, torch.float64)


def _worked_on(surface: LossSurface, tasks: tuple[Task, ...], item: tuple[int, Any, Any]) -> Sums:
    """Visit one batch, in this process or another."""
    batch = Batch(surface, *item)
    with _ALONE:
        if surface._prepared:  # threads share the model, which is prepared once
            return surface._visited(batch, tasks)
        with prepared(surface.model, surface.parameters, train=surface.mode == "train"):
            return surface._visited(batch, tasks)
