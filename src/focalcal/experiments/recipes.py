"""What a run of the experiments is: data, network, loss and schedule, as plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from focalcal import nn as losses
from focalcal._settings import check_choice, check_count
from focalcal.experiments import nets, published_nets


def _focal(gamma: float, reduction: str) -> nn.Module:
    return losses.FocalLoss(gamma, reduction=reduction)


def _bottlenecks(depth: int, channels: int, side: int, classes: int) -> nn.Module:
    return published_nets.bottleneck_resnet(depth, classes, channels, side=side)


#: Losses of the experiments by their names, summed over a batch as they were published.
LOSSES: dict[str, Callable[[str], nn.Module]] = {
    "ce": lambda reduction: nn.CrossEntropyLoss(reduction=reduction),
    **{f"focal-{gamma}": partial(_focal, gamma) for gamma in (1, 2, 3, 5, 7)},
    "flsd-53": lambda reduction: losses.FLSDLoss(reduction=reduction),
    "adafocal": lambda reduction: losses.AdaFocalLoss(reduction=reduction),
    "dual": lambda reduction: losses.DualFocalLoss(reduction=reduction),
    "inverse": lambda reduction: losses.InverseFocalLoss(reduction=reduction),
    "proper": lambda reduction: losses.ProperFocalLoss(reduction=reduction),
    "brier": lambda reduction: losses.BrierLoss(reduction=reduction),
}

#: Networks by their names: from images' channels, side and classes.
NETS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "small_cnn": lambda channels, side, classes: nets.small_cnn(channels, classes, side),
    "linear": lambda channels, side, classes: nets.mlp(channels * side * side, classes, ()),
    "mlp": lambda channels, side, classes: nets.mlp(channels * side * side, classes),
    "resnet20": lambda channels, side, classes: nets.cifar_resnet(20, classes, channels),
    "resnet50": partial(_bottlenecks, 50),
    "resnet110": partial(_bottlenecks, 110),
    "wide_resnet": lambda channels, side, classes: published_nets.wide_resnet(26, 10, classes, channels),
    "densenet121": lambda channels, side, classes: published_nets.densenet121(classes, channels),
}


@dataclass(frozen=True)
class Recipe:
    """One run. The defaults are those of Mukhoti et al. for CIFAR.

    Attributes
    ----------
    data : str
        As `open_dataset` takes it.
    net, loss : str
        Names of `NETS` and `LOSSES`.
    seed : int
        Of first weights, order, augmentation and flipped labels.
    epochs, drops : int, tuple of int
        Epochs in all, and those after which the rate is divided by 10.
    rate, momentum, decay : float
        Of SGD.
    batch_size : int
        Rows of a step, over all processes.
    reduction : {"sum", "mean"}
        Of the loss over a batch; the published runs sum, and clip.
    clip : float
        Largest norm of a gradient.
    augment : bool
        Whether images are cropped after padding by 4 and half of them mirrored.
    penalty : float
        Weight of the trace penalty, measured every tenth step.
    rho : float
        Radius of SAM; 0 leaves it out.
    label_noise : float
        Share of the training labels that are moved to another class.
    rows : int or None
        The most images of each part.
    precision : {"float32", "bfloat16", "float16"}
        Of the forward pass.
    """

    data: str = "cifar10"
    net: str = "resnet20"
    loss: str = "ce"
    seed: int = 0
    epochs: int = 350
    drops: tuple[int, ...] = (150, 250)
    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 5e-4
    batch_size: int = 128
    reduction: str = "sum"
    clip: float = 2.0
    augment: bool = True
    penalty: float = 0.0
    rho: float = 0.0
    label_noise: float = 0.0
    rows: int | None = None
    precision: str = "float32"

    def checked(self) -> Recipe:
        """Return it, or say what is wrong with it."""
        check_choice("net", self.net, tuple(NETS))
        check_choice("loss", self.loss, tuple(LOSSES))
        check_choice("reduction", self.reduction, ("sum", "mean"))
        check_choice("precision", self.precision, ("float32", "bfloat16", "float16"))
        check_count("epochs", self.epochs)
        check_count("batch_size", self.batch_size)
        if self.penalty and self.rho:
            raise ValueError("Expected a trace penalty or SAM, got both. Set penalty or rho to 0.")
        if not 0 <= self.label_noise < 1:
            raise ValueError(f"Expected label_noise in [0, 1), got {self.label_noise}.")
        return self

    @property
    def key(self) -> str:
        """A name that no other recipe has."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.net}-{self.loss}-{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self) | {"drops": list(self.drops)}

    def rate_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""
        return self.rate * 0.1 ** sum(epoch >= drop for drop in self.drops)


def from_dict(values: dict[str, Any]) -> Recipe:
    """Return a recipe from what `to_dict` gave."""
    return Recipe(**values | {"drops": tuple(values["drops"])}).checked()


def published(data: str, net: str, loss: str, seed: int = 0) -> Recipe:
    """Return the published set-up: Mukhoti et al., section 5."""
    recipe = Recipe(data, net, loss, seed)
    if data == "tinyimagenet":
        recipe = replace(recipe, epochs=100, drops=(40, 60), batch_size=64)
    return recipe.checked()


def small(data: str, net: str, loss: str, seed: int = 0, *, epochs: int = 20, rows: int = 5000) -> Recipe:
    """Return a set-up for a laptop: fewer images as they are, a mean loss, a shorter schedule.

    Augmented, a network that small would not become over-confident, and there would be nothing to calibrate.
    """
    drops = (epochs // 2, epochs * 3 // 4)
    plain = Recipe(data, net, loss, seed, epochs, drops, rows=rows)
    return replace(plain, reduction="mean", rate=0.05, augment=False).checked()
