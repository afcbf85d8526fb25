r"""Normalisation layers of elementary operations, whose every derivative is right.

In torch 2.13 the fused ones are wrong without a word: `_weight_norm` from the second derivative on;
`layer_norm`, `instance_norm`, and `batch_norm` with a batch's own statistics from the third, by which a
penalty on second derivatives, such as :math:`v^\top H v`, trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class ExactNorms(TorchFunctionMode):
    """Within it the fused norms of torch are computed by elementary operations.

    A batch's statistics leave running ones as they are: whoever measures has no business with them.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call what stands for a function, or the function itself."""
        return _INSTEAD.get(func, func)(*args, **(kwargs or {}))


def _standardised(x: Tensor, over: Iterable[int], eps: float) -> Tensor:
    """Return x less its mean, over its standard deviation; half precision in float32, as the fused ones."""
    over = tuple(over)
    wide = x.float() if x.dtype.itemsize == 2 else x
    centred = wide - wide.mean(over, keepdim=True)
    return centred * (centred.square().mean(over, keepdim=True) + eps).rsqrt()


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    shape = tuple(normalized_shape)
    found = _standardised(input, range(-len(shape), 0), eps)
    return _scaled(found, weight, bias, shape).to(input.dtype)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    found = _standardised(input, (0, *range(2, input.dim())), eps)
    return _scaled(found, weight, bias, (-1, *(1,) * (input.dim() - 2))).to(input.dtype)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    found = _standardised(input, range(2, input.dim()), eps)
    return _scaled(found, weight, bias, (-1, *(1,) * (input.dim() - 2))).to(input.dtype)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _reordered(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a norm that takes its arguments in the order of torch's own, not of torch.nn.functional."""

    def call(
        x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, own: bool, momentum: float, eps: float, _: Any
    ) -> Tensor:
        return norm(x, mean, var, weight, bias, own, momentum, eps)

    return call


_INSTEAD: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    torch.batch_norm: _reordered(_batch_norm),
    F.instance_norm: _instance_norm,
    torch.instance_norm: _reordered(_instance_norm),
    torch._weight_norm: _weight_norm,
}
