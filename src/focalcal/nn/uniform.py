"""A share of the uniform distribution, mixed into log-probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def with_uniform(log_probs: Tensor, share: float, axis: int) -> Tensor:
    """Return log((1 − share) p + share/K), where K counts the classes that can occur; −inf stays."""
    masked = torch.isneginf(log_probs)
    flat = math.log(share) - (~masked).sum(axis, keepdim=True).to(log_probs.dtype).log()
    mixed = torch.logaddexp(log_probs + math.log1p(-share), flat) if share < 1 else flat.expand_as(log_probs)
    return mixed.masked_fill(masked, -torch.inf)


class UniformShare(torch.nn.Module):
    """Mix a share in (0, 1] of the uniform distribution into log-probabilities (C,) or (N, C, d1, …)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, log_probs: Tensor) -> Tensor:
        """Return log-probabilities of the same shape; where a class cannot occur (−inf), it stays so."""
        return with_uniform(log_probs, self.share, min(log_probs.dim() - 1, 1))

    def extra_repr(self) -> str:
        """Return the share."""
        return f"share={self.share:.4g}"

    # no buffer: .half() would round it
    def get_extra_state(self) -> Tensor:
        """Return the share, as float64."""
        return torch.tensor(self.share, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take the share from a state_dict."""
        self.share = state.item()
