"""What the runs of a study cost: floating point operations, and the GPU hours that they make."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from focalcal._settings import check_positive
from focalcal.experiments.datasets import ImageData
from focalcal.experiments.recipes import LOSSES, NETS, Recipe
from focalcal.experiments.shapes import Shape, made_images, shape_of
from focalcal.experiments.train import train

#: 10^12 operations a second that training is taken to reach on an A100 where nothing is measured.
TFLOPS = 20.0

#: Passes forward, of as many operations each, that a training step is worth.
_STEP = 3.0
#: Steps that the trace penalty is worth where it is measured.
_PENALTY = 4.0
#: Steps before the clock starts, and those that it measures.
_WARM, _TIMED = 3, 10


@cache
def forward_flops(net: str, channels: int, side: int, classes: int) -> int:
    """Count the floating point operations of one image's pass forward; nothing is computed.

    Parameters
    ----------
    net : str
        A name of `NETS`.
    channels, side, classes : int
        Of the images, in pixels, and of the labels.

    Returns
    -------
    int
        Of convolutions and matrix products, a multiplication and an addition being two.

    Examples
    --------
    Layers of 64 · 128, 128 · 128 and 128 · 10 weights:

    >>> forward_flops("mlp", 1, 8, 10) == 2 * (64 * 128 + 128 * 128 + 128 * 10)
    True
    """
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter, torch.no_grad():
        NETS[net](channels, side, classes)(torch.zeros(1, channels, side, side))
    return counter.get_total_flops()


def run_flops(recipe: Recipe, images: ImageData | None = None) -> float:
    """Return the floating point operations of a whole run.

    Parameters
    ----------
    recipe : Recipe
        What is trained.
    images : ImageData, optional
        Those of the recipe's data set, where that is a file, of which nothing is known by its name.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        For a data set of which nothing is known.

    Notes
    -----
    A step is three passes forward: the pass itself, and the derivatives in the layers' inputs and in their
    weights. SAM takes each step twice. The trace penalty, every tenth step, has the operations of four more
    steps (counted: 4.1 with ResNet-50, 4.0 with the other published networks; the time of a small CNN was
    that of three). A loss that follows the validation images, AdaFocal, has them pass forward every epoch.
    The scores that are written at the end are left out, less than a thousandth.

    Examples
    --------
    Two epochs of 1000 images, three passes each:

    >>> recipe = Recipe("digits", "mlp", epochs=2)
    >>> run_flops(recipe) == 2 * 1000 * 3 * forward_flops("mlp", 1, 8, 10)
    True
    """
    shape = shape_of(recipe.data, images)
    train, val = (rows if recipe.rows is None else min(rows, recipe.rows) for rows in shape[3:])
    passes = train * _step_passes(recipe)
    if hasattr(LOSSES[recipe.loss](recipe.reduction), "update"):
        passes += val
    return recipe.epochs * passes * forward_flops(recipe.net, *shape[:3])


def _step_passes(recipe: Recipe) -> float:
    """Return the passes forward that a step's image is worth, on average."""
    return _STEP * (2 if recipe.rho else 1) * (1 + _PENALTY / 10 if recipe.penalty else 1)


def hours(recipe: Recipe, images: ImageData | None = None, *, tflops: float | None = None) -> float:
    """Estimate the hours of a run on one GPU.

    Parameters
    ----------
    recipe : Recipe
        What is trained.
    images : ImageData, optional
        Those of the recipe's data set, where that is a file, of which nothing is known by its name.
    tflops : float, optional
        10^12 operations a second that are reached. Default: what `measured_tflops` finds where there is a
        GPU, else `TFLOPS`.

    Returns
    -------
    float
        Hours.

    Raises
    ------
    ValueError
        For a data set of which nothing is known, or a speed of 0.

    Notes
    -----
    `TFLOPS` is an assumption; it was not measured here. On an A100 NVIDIA's own examples train ResNet-50 on
    images of 224 × 224 pixels in TF32, which convolutions use by default there, at 938 images a second. At
    3 · 2 · 4.1 · 10^9 operations an image this is 23 · 10^12 a second, 15 % of the peak, as normalisation and
    activations wait for memory. DenseNets, which read more for each operation, reach less; wide nets more.

    References
    ----------
    NVIDIA, DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5, training performance.

    Examples
    --------
    ResNet-50 on CIFAR-10 for 350 epochs is 1.2 · 10^17 operations:

    >>> round(hours(Recipe("cifar10", "resnet50"), tflops=20.0), 1)
    1.7
    """
    if tflops is None:
        tflops = measured_tflops(recipe, images) if torch.cuda.is_available() else TFLOPS
    return run_flops(recipe, images) / (check_positive("tflops", tflops) * 1e12) / 3600


def measured_tflops(recipe: Recipe, images: ImageData | None = None, device: str | None = None) -> float:
    """Measure the speed of plain training steps of a recipe's network and batch on random images.

    Parameters
    ----------
    recipe : Recipe
        Its network, batch and precision count.
    images : ImageData, optional
        Those of the recipe's data set, where that is a file.
    device : str, optional
        Default: a GPU if there is one.

    Returns
    -------
    float
        10^12 operations a second, as `run_flops` counts them.
    """
    plain = replace(recipe, loss="ce", penalty=0.0, rho=0.0, label_noise=0.0, seed=0, rows=None)
    return _measured(plain, shape_of(recipe.data, images), device)


@cache
def _measured(recipe: Recipe, shape: Shape, device: str | None) -> float:
    made = made_images(shape, recipe.batch_size)
    recipe = replace(recipe, epochs=_WARM + _TIMED + 1)
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        # a step looks whether its loss is finite, so that it is over when it is told
        told = lambda *_: times.append(time.perf_counter())  # noqa: E731
        train(recipe, made, Path(folder), device=device, steps=_WARM + _TIMED, progress=told)
    images = _TIMED * recipe.batch_size
    seconds = times[-1] - times[_WARM - 1]
    return images * _STEP * forward_flops(recipe.net, *shape[:3]) / seconds / 1e12


def costs_table(
    recipes: Iterable[Recipe], images: ImageData | None = None, tflops: float | None = None
) -> str:
    """Return what the runs cost, as a table in Markdown: a line for each data set, network and schedule.

    Parameters
    ----------
    recipes : iterable of Recipe
        All runs.
    images : ImageData, optional
        Those of the data set that is a file, where there is one.
    tflops : float, optional
        As in `hours`.

    Returns
    -------
    str
        The table, and below it what was assumed.
    """
    grouped: dict[tuple[str, str, int], list[Recipe]] = {}
    for recipe in recipes:
        grouped.setdefault((recipe.data, recipe.net, recipe.epochs), []).append(recipe)
    lines = [
        "| data | network | epochs | GFLOP an image, forward | hours a run | dearer losses | runs | hours |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    total = 0.0
    for (data, net, epochs), runs in grouped.items():
        gflop = forward_flops(net, *shape_of(data, images)[:3]) / 1e9
        plain = hours(_plain(runs[0]), images, tflops=tflops)
        dear = ", ".join(f"{name} × {times:.2f}" for name, times in _dearer(runs, images).items())
        every = sum(hours(run, images, tflops=tflops) for run in runs)
        total += every
        cells = [data, net, epochs, f"{gflop:.3g}", f"{plain:.3g}", dear, len(runs), f"{every:,.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    counted = sum(map(len, grouped.values()))
    lines.append(f"| all | | | | | | {counted} | {total:,.1f} |")
    return "\n".join([*lines, "", _assumed(tflops)])


def kind(recipe: Recipe) -> str:
    """Return the loss with what is added to it: "ce", "ce + trace penalty", "ce + SAM"."""
    return recipe.loss + " + trace penalty" * bool(recipe.penalty) + " + SAM" * bool(recipe.rho)


def _plain(recipe: Recipe) -> Recipe:
    return replace(recipe, loss="ce", penalty=0.0, rho=0.0)


def _dearer(runs: list[Recipe], images: ImageData | None) -> dict[str, float]:
    """Return how many times a plain run's operations each dearer kind of run has."""
    times = {kind(run): run_flops(run, images) / run_flops(_plain(run), images) for run in runs}
    return {name: factor for name, factor in times.items() if factor > 1}


def _assumed(tflops: float | None) -> str:
    if tflops is None and torch.cuda.is_available():
        speed = "The speed was measured on this machine's GPU, for each network and batch."
    elif tflops is None:
        speed = (
            f"A speed of {TFLOPS:g} · 10¹² operations a second on one GPU is assumed, about what NVIDIA's "
            "examples reach with ResNet-50 in TF32 on an A100; nobody has measured it with these networks."
        )
    else:
        speed = f"A speed of {tflops:g} · 10¹² operations a second on one GPU was given."
    return (
        "Hours on one GPU, estimated from counted operations; those of a run are with plain cross-entropy. A "
        "training step is taken as three passes forward, SAM as two steps, the trace penalty as four more "
        f"steps every tenth one, AdaFocal's validation images as one pass an epoch. {speed}"
    )
