"""The parameters that a loss surface is a function of, as one vector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parameters:
    """Some parameters of a model, each once, in the model's order."""

    names: tuple[str, ...]
    tensors: tuple[torch.nn.Parameter, ...]

    @property
    def size(self) -> int:
        """Number of scalars P."""
        return sum(tensor.numel() for tensor in self.tensors)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return a vector (P,) as tensors of the parameters' shapes, dtypes and devices."""
        parts = torch.split(vector, [tensor.numel() for tensor in self.tensors])
        return [
            part.reshape(t.shape).to(t.device, t.dtype) for part, t in zip(parts, self.tensors, strict=True)
        ]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return tensors of the parameters' shapes as a vector (P,), float64 on the first one's device."""
        device = self.tensors[0].device
        return torch.cat([part.detach().reshape(-1).to(device, torch.float64) for part in parts])


def choose(model: torch.nn.Module, chosen: str | Iterable[str] | None) -> Parameters:
    """Return the named parameters, or those of named submodules; by default all that are not frozen.

    A parameter under two names (tied) is one.
    """
    every = dict(model.named_parameters(remove_duplicate=False))
    if chosen is None:
        names = [name for name, tensor in every.items() if tensor.requires_grad]
    else:
        wanted = [chosen] if isinstance(chosen, str) else list(chosen)
        for one in wanted:
            if not any(_within(name, one) for name in every):
                known = ", ".join(list(every)[:4])
                raise ValueError(
                    f"Expected parameters by their names or their submodules' names, got {one!r}, which is "
                    f"none. The model has {known}, …: see model.named_parameters()."
                )
        names = [name for name in every if any(_within(name, one) for one in wanted)]
    unique = {id(every[name]): name for name in reversed(names)}
    names = [name for name in names if unique[id(every[name])] == name]
    if not names:
        raise ValueError(
            "Expected at least one parameter, got none: every parameter of the model is frozen. Name some."
        )
    return Parameters(tuple(names), tuple(every[name] for name in names))


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")
