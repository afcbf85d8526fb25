r"""Focal matrix scaling as an output layer."""

from __future__ import annotations

import torch
from torch import Tensor

from focalcal.calibrators import FocalMatrixScaling
from focalcal.nn.maps import focal_map
from focalcal.nn.uniform import with_uniform


class FocalMatrix(torch.nn.Module):
    r"""An output layer that does what a fitted `FocalMatrixScaling` does to logits.

    Parameters
    ----------
    calibrator : FocalMatrixScaling
        Fitted. Its numbers become buffers in float64, whose device has to have it.

    Notes
    -----
    Logits of shape (C,) or (N, C, d1, …); −inf marks a class that cannot occur. Half precisions are computed
    in float32, and all of float32 with the matrix rounded to it.
    """

    temperature: Tensor
    matrix: Tensor
    bias: Tensor
    slopes: Tensor

    def __init__(self, calibrator: FocalMatrixScaling) -> None:
        super().__init__()
        self.gamma, self.uniform_share = calibrator.gamma_, calibrator.uniform_share_
        self.prior_share = calibrator.prior_share_
        self.classes = len(calibrator.classes_)
        for name in ("temperature", "matrix", "bias", "slopes"):
            value = torch.as_tensor(getattr(calibrator, f"{name}_"), dtype=torch.float64)
            self.register_buffer(name, value.clone())

    def forward(self, logits: Tensor) -> Tensor:
        """Return log-probabilities of the logits' shape, float32 or float64."""
        axis = min(logits.dim() - 1, 1)
        if axis < 0 or not logits.is_floating_point() or logits.shape[axis] != self.classes:
            raise ValueError(
                f"Expected floating-point logits of shape (C,) or (N, C, …) with {self.classes} classes, got "
                f"{logits.dtype} of shape {tuple(logits.shape)}. Classes come second."
            )
        wide = (logits.float() if logits.dtype.itemsize == 2 else logits).movedim(axis, -1)
        gaps = wide - wide.amax(-1, keepdim=True)
        masked = torch.isneginf(gaps)
        lowest = gaps.masked_fill(masked, torch.inf).amin(-1, keepdim=True)
        x = self._started(torch.where(masked, lowest, gaps), masked)
        scores = x @ self.matrix.to(x.dtype) + self.bias.to(x.dtype)
        log_probs = torch.log_softmax(scores.masked_fill(masked, -torch.inf), -1)
        focal = focal_map(self._tempered(log_probs).movedim(-1, axis), self.gamma)
        return with_uniform(focal, self.prior_share, axis)

    def _started(self, filled: Tensor, masked: Tensor) -> Tensor:
        """Return log-probabilities after the first stage; of masked classes the row's lowest."""
        x = filled / self.temperature.to(filled.dtype)
        if self.uniform_share == 0:
            return torch.log_softmax(x, -1)
        sharp = torch.log_softmax(x.masked_fill(masked, -torch.inf), -1)
        mixed = with_uniform(sharp, self.uniform_share, -1)
        lowest = mixed.masked_fill(masked, torch.inf).amin(-1, keepdim=True)
        return torch.where(masked, lowest, mixed)

    def _tempered(self, log_probs: Tensor) -> Tensor:
        """Divide each row by the temperature that its confidence asks for."""
        p = log_probs.exp()
        entropy = -torch.where(p > 0, p * log_probs.clamp(min=-1e30), 0.0).sum(-1)
        first, second = p.topk(2, -1).values.unbind(-1)
        c = self.slopes.to(p.dtype)
        log_temperature = c[0] + c[1] * first + c[2] * second + c[3] * entropy
        return log_probs * torch.exp(-log_temperature).unsqueeze(-1)

    def extra_repr(self) -> str:
        """Return the number of classes and γ."""
        return f"classes={self.classes}, gamma={self.gamma:.4g}"

    def get_extra_state(self) -> Tensor:
        """Return γ and the first and the last share of the uniform distribution."""
        numbers = [self.gamma, self.uniform_share, self.prior_share]
        return torch.tensor(numbers, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take γ and the shares from a state_dict."""
        self.gamma, self.uniform_share, self.prior_share = state.tolist()
