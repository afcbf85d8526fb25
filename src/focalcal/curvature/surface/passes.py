"""One pass over the data serves several tasks: a sum over rows each, batch by batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from focalcal.curvature.surface.measuring import same_noise
from focalcal.curvature.surface.totals import Loss, batch_total
from focalcal.nn._batches import called, logits_of, moved

if TYPE_CHECKING:
    from focalcal.curvature.surface.surface import LossSurface

#: What is summed over the rows: from a batch to the sum, float64, and the weight that a mean divides it by.
Task = Callable[["Batch"], tuple[Tensor, float]]
Found = tuple[Tensor, float]
T = TypeVar("T")
#: Yields tasks, is sent what they found in a pass over the data, and returns its result.
Estimator = Generator[Sequence[Task], list[Found], T]


@dataclass(frozen=True)
class Sums:
    """What the tasks of a pass found in some batches."""

    totals: tuple[Tensor, ...]
    weights: tuple[float, ...]

    def __add__(self, other: Sums) -> Sums:
        """Merge with what was found in other batches; the totals of the first are overwritten."""
        pairs = zip(self.totals, other.totals, strict=True)
        totals = tuple(a.add_(b.to(a.device)) for a, b in pairs)
        return Sums(totals, tuple(a + b for a, b in zip(self.weights, other.weights, strict=True)))

    def over_ranks(self) -> Sums:
        """Return the sums over the processes of torch.distributed."""
        weights = torch.tensor(self.weights, dtype=torch.float64, device=self.totals[0].device)
        for held in (*self.totals, weights):
            torch.distributed.all_reduce(held)
        return Sums(self.totals, tuple(weights.tolist()))

    def means(self) -> list[Tensor]:
        """Return each task's mean."""
        return [total / weight for total, weight in zip(self.totals, self.weights, strict=True)]


class Batch:
    """A batch under way: its logits and gradients, made once for all tasks that ask for them."""

    def __init__(self, surface: LossSurface, index: int, inputs: Any, target: Any) -> None:
        self.surface, self.index = surface, index
        self.inputs, self.target = moved(inputs, surface.device), moved(target, surface.device)
        self._slopes: dict[int, tuple[tuple[Tensor, ...], float]] = {}
        self.held: dict[int, int] = {}  # bytes that the graphs hold, by where they are

    @cached_property
    def logits(self) -> Tensor:
        """The model's logits with their graph."""
        with self._noted():
            return self.logits_by(self.surface.model)

    def logits_by(self, model: torch.nn.Module) -> Tensor:
        """Return what a model makes of the inputs, with this batch's noise."""
        with same_noise(self.surface.seed + self.index, self.surface.device):
            return logits_of(called(model, self.inputs))

    def total(self, loss: Loss) -> tuple[Tensor, float]:
        """Return the summed loss, and the weight that a mean divides it by."""
        return batch_total(loss, self.logits, self.target)

    def slopes(self, loss: Loss) -> tuple[tuple[Tensor, ...], float]:
        """Return the gradient of the summed loss with its graph, and the weight."""
        if id(loss) not in self._slopes:
            logits = self.logits
            with self._noted():
                total, weight = batch_total(loss, logits, self.target)
                self._slopes[id(loss)] = (self.pulled(total, create_graph=True, retain_graph=True), weight)
        return self._slopes[id(loss)]

    def _noted(self) -> AbstractContextManager[Any]:
        """Note what graphs save; torch.func works under no such hooks, so that they are here alone."""
        if not self.surface.keeps:
            return nullcontext()
        held = self.held  # and not the batch, which would keep itself alive through its graph

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)

    def pulled(self, of: Any, upstream: Any = None, **options: bool) -> Any:
        """Return gradients in the parameters, as a tuple, zeros for those that are not used."""
        wanted = self.surface.parameters.tensors
        return torch.autograd.grad(of, wanted, upstream, allow_unused=True, materialize_grads=True, **options)

    def generator(self, seed: int) -> torch.Generator:
        """Return random numbers that belong to this batch, wherever it is worked on."""
        return torch.Generator().manual_seed((seed * 1_000_003 + self.index + 1) % 2**63)


@dataclass(frozen=True)
class Value:
    """The loss."""

    loss: Loss

    def __call__(self, batch: Batch) -> tuple[Tensor, float]:
        """Return the sum."""
        total, weight = batch.total(self.loss)
        return total.detach().double(), weight


@dataclass(frozen=True)
class Gradient:
    """The loss's gradient (P,)."""

    loss: Loss

    def __call__(self, batch: Batch) -> tuple[Tensor, float]:
        """Return the sum."""
        total, weight = batch.total(self.loss)
        return batch.surface.parameters.join(batch.pulled(total, retain_graph=True)), weight


@dataclass(frozen=True)
class HessianProduct:
    """The Hessian times vectors (P, m), by double backward: one graph serves all of them."""

    loss: Loss
    vectors: Tensor

    def __call__(self, batch: Batch) -> tuple[Tensor, float]:
        """Return the sum."""
        parameters = batch.surface.parameters
        slopes, weight = batch.slopes(self.loss)
        curved = [i for i, slope in enumerate(slopes) if slope.requires_grad]
        found = torch.zeros_like(self.vectors)
        for j in range(found.shape[1] if curved else 0):
            vector = parameters.split(self.vectors[:, j])
            own, along = [slopes[i] for i in curved], [vector[i] for i in curved]
            found[:, j] = parameters.join(batch.pulled(own, along, retain_graph=True))
        return found, weight


@dataclass(frozen=True)
class GGNProduct:
    """The generalised Gauss–Newton matrix times vectors (P, m): forward mode, and one backward pass."""

    loss: Loss
    vectors: Tensor

    def __call__(self, batch: Batch) -> tuple[Tensor, float]:
        """Return the sum."""
        parameters, weight = batch.surface.parameters, 0.0
        found = torch.zeros_like(self.vectors)
        for j in range(found.shape[1]):
            logits, along = _pushed(batch, parameters.split(self.vectors[:, j]))
            at = logits.detach().requires_grad_()
            total, weight = batch_total(self.loss, at, batch.target)
            (slope,) = torch.autograd.grad(total, at, create_graph=True)
            if slope.requires_grad:
                (bent,) = torch.autograd.grad(slope, at, along, materialize_grads=True)
                found[:, j] = parameters.join(batch.pulled(logits, bent))
        return found, weight


def _pushed(batch: Batch, vector: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the logits with their graph, and their change along a vector of parameters."""
    parameters = batch.surface.parameters
    pieces = zip(parameters.names, parameters.tensors, vector, strict=True)
    load_forward_mode()
    with forward_ad.dual_level():
        make: Any = forward_ad.make_dual
        duals = {name: make(tensor, piece) for name, tensor, piece in pieces}
        unpack: Any = forward_ad.unpack_dual
        logits, along = unpack(batch.logits_by(Swapped(batch.surface.model, duals)))
    return logits, torch.zeros_like(logits) if along is None else along.detach()


@cache
def load_forward_mode() -> None:
    """Let torch load its rules for forward mode, which it warns of itself, once."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]


class Swapped(torch.nn.Module):
    """A model that is called with other parameters and buffers.

    `torch.func.functional_call` would leave a module that is registered under two names with the other ones.
    """

    def __init__(self, model: torch.nn.Module, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.values = model, values

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        named: dict[str, Tensor] = dict(self.model.named_parameters(remove_duplicate=False))
        named |= self.model.named_buffers(remove_duplicate=False)
        instead = {id(named[name]): value for name, value in self.values.items()}
        held: list[Any] = [own for m in self.model.modules() for own in (m._parameters, m._buffers)]
        swapped = [(own, key, tensor) for own in held for key, tensor in own.items() if id(tensor) in instead]
        try:
            for own, key, tensor in swapped:
                own[key] = instead[id(tensor)]
            return self.model(*args, **kwargs)
        finally:
            for own, key, tensor in swapped:
                own[key] = tensor


def estimate(
    surface: LossSurface, estimator: Estimator[T], before: Callable[[Sequence[Task]], None] | None = None
) -> T:
    """Run an estimator: a pass over the data for each of its rounds; `before` is told of each."""
    found: list[Found] | None = None
    while True:
        try:
            tasks = next(estimator) if found is None else estimator.send(found)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if before is not None:
            before(tasks)
        sums = surface.sums(tasks)
        found = list(zip(sums.totals, sums.weights, strict=True))


def side_by_side(estimators: Sequence[Estimator[T]]) -> Estimator[list[T]]:
    """Join estimators into one: what they ask for in a round is found in one pass."""
    results: dict[int, T] = {}
    asked: dict[int, Sequence[Task]] = {}

    def advance(i: int, found: list[Found] | None) -> None:
        try:
            asked[i] = next(estimators[i]) if found is None else estimators[i].send(found)
        except StopIteration as stop:
            asked.pop(i, None)
            results[i] = stop.value

    for i in range(len(estimators)):
        advance(i, None)
    while asked:
        order = list(asked)
        found = iter((yield [task for i in order for task in asked[i]]))
        for i in order:
            advance(i, [next(found) for _ in asked[i]])
    return [results[i] for i in range(len(estimators))]


def added(parts: Iterable[Sums]) -> Sums:
    """Return the sum over batches, or say that there are none."""
    total: Sums | None = None
    for part in parts:
        total = part if total is None else total + part
    if total is None or not all(weight > 0 and math.isfinite(weight) for weight in total.weights):
        raise no_rows()
    return total


def no_rows() -> ValueError:
    """Return the error of a loader that gives nothing."""
    return ValueError(
        "Expected rows to measure, got none: the loader is empty or was read before, or every label is "
        "ignored. Pass a loader that can be read again: a DataLoader, or a list of batches."
    )
