"""The state in which a model is measured, and its way back to where it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from focalcal.curvature.surface.exact_norms import ExactNorms
from focalcal.curvature.surface.parameters import Parameters


@contextmanager
def prepared(model: torch.nn.Module, parameters: Parameters, *, train: bool) -> Iterator[None]:
    """Put a model into eval (or train) mode with gradients of the chosen parameters, and undo everything.

    Buffers too get their values back, also after an exception: a pass in train mode moves those of BatchNorm.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(tensor, tensor.requires_grad) for tensor in parameters.tensors]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with ExitStack() as stack:
        stack.callback(_restore, modes, wanted, buffers)
        model.train(train)
        for tensor, _ in wanted:
            tensor.requires_grad_(True)
        yield


@contextmanager
def computing() -> Iterator[None]:
    """Let this thread compute what has derivatives of every order."""
    # the other ways to compute attention have no second derivatives
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), ExactNorms():
        yield


@contextmanager
def measuring(model: torch.nn.Module, parameters: Parameters, *, train: bool) -> Iterator[None]:
    """Prepare a model, and compute in this thread."""
    with prepared(model, parameters, train=train), computing():
        yield


def _restore(
    modes: list[tuple[torch.nn.Module, bool]],
    wanted: list[tuple[torch.nn.Parameter, bool]],
    buffers: list[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    for module, mode in modes:
        module.training = mode
    for tensor, requires_grad in wanted:
        tensor.requires_grad_(requires_grad)
    with torch.no_grad():
        for buffer, values in buffers:
            if not torch.equal(buffer, values):
                buffer.copy_(values)


@contextmanager
def same_noise(seed: int, device: torch.device) -> Iterator[None]:
    """Draw the same random numbers (dropout's) whenever a batch is seen again."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed looks at every kind of device: 5 ms
        if devices:
            torch.cuda.manual_seed(seed)
        yield
