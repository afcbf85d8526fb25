"""The networks of the study of curvature: data, recipes, and training that takes up where it stopped.

    python -P benchmarks/geometry_nets.py --checkpoints FOLDER [--data ../shared/data] [--study digits]

Each net is kept in FOLDER as a state dict; those that are there are not trained again. A recipe is the same for
every γ, and a seed fixes the first weights, the order of batches and the labels that are flipped.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from focalcal.experiments import mlp, resnet20, small_cnn
from focalcal.nn import FocalLoss

GAMMAS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
CIFAR = "cifar10_images_train10k_test5k.npz"


@dataclass(frozen=True)
class Images:
    """Inputs (n, …) and class indices (n,) of each part."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How the nets of one study are made."""

    data: str
    words: str
    make: Callable[[], torch.nn.Module]
    epochs: int
    rate: float
    batch: int = 64
    decay: float = 0.0
    momentum: float | None = None  # SGD; without it Adam
    augment: bool = False


RECIPES = {
    # few rows, learnt by heart, so that there is something to be sure of in vain
    "digits": Recipe(
        "digits",
        "scikit-learn's digits: a perceptron of two hidden layers of 128, 100 training rows, 600 epochs of Adam.",
        lambda: mlp(64, 10),
        epochs=600,
        rate=2e-3,
        batch=32,
    ),
    # many rows for few weights: near the optimum of the population, noise and all
    "noise": Recipe(
        "digits-large",
        "scikit-learn's digits: a perceptron of one hidden layer of 16, 1,000 training rows, 100 epochs of Adam with weight decay .001.",
        lambda: mlp(64, 10, (16,)),
        epochs=100,
        rate=5e-3,
        batch=32,
        decay=1e-3,
    ),
    "cifar": Recipe(
        "cifar",
        "CIFAR-10: small_cnn (33,834 parameters), 8,000 training images as they are, 20 epochs of Adam.",
        lambda: small_cnn(3, 10, 32),
        epochs=20,
        rate=2e-3,
    ),
    "resnet20": Recipe(
        "cifar",
        "CIFAR-10: ResNet-20, 8,000 training images, cropped and mirrored, 10 epochs of SGD.",
        resnet20,
        10,
        0.1,
        batch=128,
        decay=5e-4,
        momentum=0.9,
        augment=True,
    ),
}


@dataclass(frozen=True)
class Net:
    """One network of the study: what it was trained on, with which γ and seed."""

    study: str
    gamma: float
    seed: int
    noise: float = 0.0  # share of the training labels that are flipped to another class

    @property
    def name(self) -> str:
        """Its file's."""
        flipped = f"-noise{self.noise:g}" if self.noise else ""
        return f"{self.study}-gamma{self.gamma:g}-seed{self.seed}{flipped}"


def planned(study: str) -> list[Net]:
    """Return the nets of a study, so that the first seeds of every γ come first."""
    if study == "resnet20":
        return [Net(study, 0.0, 0)]
    if study == "noise":
        return [Net(study, gamma, seed, 0.2) for seed in range(5) for gamma in (0.0, 1.0, 2.0, 3.0)]
    return [Net(study, gamma, seed) for seed in range(5) for gamma in GAMMAS]


@cache
def load(data: str, folder: Path) -> Images:
    """Return scikit-learn's digits, or the images of CIFAR-10 in the folder."""
    if data.startswith("digits"):
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(y))
        x, y = torch.from_numpy(x[order] / 16).float(), torch.from_numpy(y[order]).long()
        n = 100 if data == "digits" else 1000
        return Images((x[:n], y[:n]), (x[1000:1300], y[1000:1300]), (x[1300:], y[1300:]))
    with np.load(folder / CIFAR) as file:
        mask = file["val_mask"]
        train, test = (_normalised(file[f"x_{part}"]) for part in ("train", "test"))
        y, y_test = (torch.from_numpy(file[f"y_{part}"]).long() for part in ("train", "test"))
    return Images((train[~mask], y[~mask]), (train[mask], y[mask]), (test, y_test))


def _normalised(pixels: np.ndarray) -> Tensor:
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, deviation = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    return ((x - mean[:, None, None]) / deviation[:, None, None]).contiguous()


def flipped(y: Tensor, share: float, seed: int) -> Tensor:
    """Return labels of which an exact share were moved to another of ten classes."""
    rng = np.random.default_rng(1000 + seed)
    rows = torch.from_numpy(rng.permutation(len(y))[: round(share * len(y))])
    moved = y.clone()
    moved[rows] = (y[rows] + torch.from_numpy(rng.integers(1, 10, len(rows)))) % 10
    return moved


def training_rows(net: Net, folder: Path) -> tuple[Tensor, Tensor]:
    """Return what a net was trained on."""
    x, y = load(RECIPES[net.study].data, folder).train
    return x, flipped(y, net.noise, net.seed)


def cropped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (n, 3, 32, 32) padded by 4, cropped anywhere, and half of them mirrored."""
    n, side = len(x), x.shape[-1]
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    top, left = torch.randint(9, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(side), left + torch.arange(side)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def train(net: Net, folder: Path) -> torch.nn.Module:
    """Train a net from its seed."""
    recipe, (x, y) = RECIPES[net.study], training_rows(net, folder)
    torch.manual_seed(net.seed)
    model, order = recipe.make(), torch.Generator().manual_seed(net.seed)
    if recipe.momentum is None:
        optimizer = torch.optim.Adam(model.parameters(), recipe.rate, weight_decay=recipe.decay)
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), recipe.rate, recipe.momentum, weight_decay=recipe.decay
        )
    steps = recipe.epochs * math.ceil(len(y) / recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    loss = FocalLoss(net.gamma)
    for _ in range(recipe.epochs):
        model.train()
        for rows in torch.randperm(len(y), generator=order).split(recipe.batch):
            optimizer.zero_grad()
            loss(model(cropped(x[rows], order) if recipe.augment else x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def trained(net: Net, checkpoints: Path, folder: Path) -> torch.nn.Module:
    """Return a net with the weights that are kept, or train it and keep them."""
    path = checkpoints / f"{net.name}.pt"
    if not path.exists():
        start = time.perf_counter()
        model = train(net, folder)
        aside = path.with_suffix(".part")
        torch.save(model.state_dict(), aside)
        aside.replace(path)
        x, y = training_rows(net, folder)
        right = (logits_of(model, x).argmax(1) == y).double().mean()
        test = load(RECIPES[net.study].data, folder).test
        hits = (logits_of(model, test[0]).argmax(1) == test[1]).double().mean()
        seconds = time.perf_counter() - start
        print(
            f"{net.name}: {seconds:.0f} s, accuracy {right:.4f} in training, {hits:.4f} in test", flush=True
        )
    model = RECIPES[net.study].make()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def logits_of(model: torch.nn.Module, x: Tensor) -> Tensor:
    """Return the logits of all rows, in eval mode."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(rows) for rows in x.split(500)])


def arguments(doc: str) -> argparse.ArgumentParser:
    """Return a parser of the options that both programs have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--study", choices=RECIPES, action="append", help="default: all")
    parser.add_argument("--seed", type=int, action="append", help="default: all; to share the work")
    return parser


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    options.checkpoints.mkdir(parents=True, exist_ok=True)
    for study in options.study or RECIPES:
        for net in planned(study):
            if options.seed is None or net.seed in options.seed:
                trained(net, options.checkpoints, options.data)


if __name__ == "__main__":
    main()
