r"""Focal temperature scaling as an output layer: a fitted calibrator in PyTorch, or one to be learnt."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from focalcal._settings import check_gamma, check_temperature
from focalcal.nn.maps import focal_map

#: Stands for −inf while T is learnt, whose gradient would be 0 · inf.
_MASKED = -1e30


class FocalTemperature(torch.nn.Module):
    r"""An output layer from logits to log-probabilities, :math:`\log\varphi_\gamma(\mathrm{softmax}(z/T))`.

    Parameters
    ----------
    temperature : float
        T > 0.
    gamma : float
        γ ≥ −1; > −1 if it is to be learnt. 0 is temperature scaling.
    learnable : bool
        Make T and γ parameters: stored as log T and log(1 + γ), so that T stays positive and γ above −1.

    Raises
    ------
    ValueError
        For T or γ out of range, a state that holds such ones, logits without two classes or more.

    Notes
    -----
    Logits of shape (C,) or (N, C, d1, …), in nats; −inf marks a class that cannot occur and stays −inf.
    Half precisions are computed in float32. The values are not read, so that no device is waited for: NaN
    gives NaN. Frozen, T and γ are in the state_dict as float64, whatever the module is moved or cast to.

    References
    ----------
    Komisarenko and Kull, ECAI 2024, arXiv 2408.11598; Guo et al. 2017, arXiv 1706.04599.

    Examples
    --------
    For γ = 1, h(v) = v / (1 − v − v log v), here of v = 1/4 and 3/4:

    >>> import torch
    >>> layer = FocalTemperature(temperature=2.0, gamma=1.0)
    >>> layer(2 * torch.log(torch.tensor([[0.25, 0.75]]))).exp()
    tensor([[0.1240, 0.8760]])
    """

    def __init__(self, temperature: float = 1.0, gamma: float = 0.0, learnable: bool = False) -> None:
        temperature, gamma = check_temperature(temperature), check_gamma(gamma)
        if learnable and gamma == -1:
            raise ValueError("Expected gamma > -1 for a learnable map, got -1. Start at -0.9, for example.")
        super().__init__()
        self.learnable = learnable
        if learnable:
            self.log_temperature = torch.nn.Parameter(torch.tensor(math.log(temperature)))
            self.log1p_gamma = torch.nn.Parameter(torch.tensor(math.log1p(gamma)))
        else:
            self._numbers = temperature, gamma

    @property
    def temperature(self) -> Tensor:
        """T, a scalar tensor."""
        if self.learnable:
            return torch.exp(self.log_temperature)
        return torch.tensor(self._numbers[0], dtype=torch.float64, device="cpu")

    @property
    def gamma(self) -> Tensor:
        """γ, a scalar tensor."""
        if self.learnable:
            return torch.expm1(self.log1p_gamma)
        return torch.tensor(self._numbers[1], dtype=torch.float64, device="cpu")

    def forward(self, logits: Tensor) -> Tensor:
        """Return log-probabilities of the logits' shape (C,) or (N, C, d1, …), float32 or float64."""
        axis = min(logits.dim() - 1, 1)
        if axis < 0 or not logits.is_floating_point() or logits.shape[axis] < 2:
            raise ValueError(
                "Expected floating-point logits of shape (C,) or (N, C, …) with 2 classes or more, got "
                f"{logits.dtype} of shape {tuple(logits.shape)}. Turn the one logit z of a binary model "
                "into two, torch.cat([torch.zeros_like(z), z], 1)."
            )
        wide = logits.float() if logits.dtype.itemsize == 2 else logits
        # before the division, which would round logits that are large beside their differences
        gaps = wide - wide.detach().amax(axis, keepdim=True)
        if not self.learnable:
            temperature, gamma = self._numbers
            return focal_map(gaps / temperature, gamma)
        masked = torch.isneginf(gaps)
        scaled = gaps.masked_fill(masked, _MASKED) / self.temperature.to(gaps.dtype)
        return focal_map(scaled, self.gamma).masked_fill(masked, -torch.inf)

    def extra_repr(self) -> str:
        """Return T, γ and whether they are learnt."""
        values = f"temperature={self.temperature.item():.4g}, gamma={self.gamma.item():.4g}"
        return f"{values}, learnable={self.learnable}"

    # not buffers: .half() would round them, and not every device has float64
    def get_extra_state(self) -> Tensor:
        """Return T and γ if they are frozen, as float64 of shape (2,)."""
        return torch.tensor(() if self.learnable else self._numbers, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take T and γ from a state_dict."""
        numbers = state.tolist()
        if len(numbers) != (0 if self.learnable else 2):
            raise ValueError(
                f"Expected the state of a FocalTemperature with learnable={self.learnable}, got that of "
                "another. Make the module as it was made when it was saved."
            )
        if not self.learnable:
            self._numbers = check_temperature(numbers[0]), check_gamma(numbers[1])


class FocalCalibrationMap(FocalTemperature):
    r"""An output layer that turns the logits of a network trained with focal loss into log-probabilities.

    Parameters
    ----------
    gamma : float
        γ ≥ −1, that of the focal loss; > −1 if it is to be learnt.
    learnable : bool
        Make γ a parameter; the temperature stays 1.

    Raises
    ------
    ValueError
        For γ out of its range.

    Examples
    --------
    >>> import torch
    >>> layer = FocalCalibrationMap(1.0)
    >>> layer(torch.log(torch.tensor([[0.25, 0.75]]))).exp()
    tensor([[0.1240, 0.8760]])
    """

    def __init__(self, gamma: float, learnable: bool = False) -> None:
        super().__init__(1.0, gamma, learnable)
        if learnable:
            self.log_temperature.requires_grad_(False)
