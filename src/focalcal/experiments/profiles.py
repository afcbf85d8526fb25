"""Which runs a reproduction consists of: a small profile for a laptop, the full one as it was published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from focalcal._settings import check_choice
from focalcal.experiments.recipes import LOSSES, Recipe, published, small

PAPERS = ("fts", "curvature")
PROFILES = ("small", "full")

#: Data sets of the full profile, and the networks of Mukhoti et al. on each.
FULL: dict[str, tuple[str, ...]] = {
    "cifar10": ("resnet50", "resnet110", "wide_resnet", "densenet121"),
    "cifar100": ("resnet50", "resnet110", "wide_resnet", "densenet121"),
    "tinyimagenet": ("resnet50",),
}

SEEDS = 5

#: Losses that only γ tells apart, cross-entropy first.
FOCAL = ("ce", "focal-1", "focal-2", "focal-3", "focal-5")

#: What is done to cross-entropy besides: fields of a recipe, in growing strength.
CONTROLS: dict[str, tuple[dict[str, float], ...]] = {
    "trace penalty": ({"penalty": 1e-4}, {"penalty": 3e-4}, {"penalty": 1e-3}),
    "SAM": ({"rho": 0.05}, {"rho": 0.1}, {"rho": 0.2}),
    "weight decay": ({"decay": 2e-3}, {"decay": 5e-3}, {"decay": 1e-2}),
}

#: Share of the training labels moved to another class, where the counter-example is looked for.
NOISE = 0.2


def planned(paper: str, profile: str, *, images: str = "cifar10") -> list[Recipe]:
    """Return the runs of a reproduction, so that every setting has its first seed before any has its second.

    Parameters
    ----------
    paper : {"fts", "curvature"}
        Focal temperature scaling (Komisarenko and Kull 2024), or focal loss and curvature (Kimura and
        Naganuma 2024).
    profile : {"small", "full"}
        For two cores and an hour, or the published set-up for GPUs.
    images : str
        What the small profile takes besides Fashion-MNIST, as `open_dataset` names it.

    Returns
    -------
    list of Recipe

    Raises
    ------
    ValueError
        For another name.

    Examples
    --------
    >>> runs = planned("fts", "small")
    >>> len(runs), runs[0].data, runs[0].loss, runs[-1].seed
    (80, 'cifar10', 'ce', 4)
    """
    check_choice("paper", paper, PAPERS)
    check_choice("profile", profile, PROFILES)
    of_seed = {
        ("fts", "small"): lambda seed: _fts_small(images, seed),
        ("fts", "full"): _fts_full,
        ("curvature", "small"): lambda seed: _curvature_small(images, seed),
        ("curvature", "full"): _curvature_full,
    }[paper, profile]
    return [recipe for seed in range(SEEDS) for recipe in of_seed(seed)]


def _fts_small(images: str, seed: int) -> Iterator[Recipe]:
    for data in (images, "fashion-mnist"):
        for loss in (*FOCAL, "flsd-53", "adafocal", "brier"):
            yield small(data, "small_cnn", loss, seed)


def _fts_full(seed: int) -> Iterator[Recipe]:
    for data, nets in FULL.items():
        for net in nets:
            yield from (published(data, net, loss, seed) for loss in LOSSES)
            yield from _controlled(published(data, net, "ce", seed), ("trace penalty", "SAM"), strengths=1)


def _curvature_small(images: str, seed: int) -> Iterator[Recipe]:
    for data in (images, "fashion-mnist"):
        yield from (small(data, "small_cnn", loss, seed) for loss in FOCAL)
    yield from _controlled(small(images, "small_cnn", "ce", seed), CONTROLS)
    # logistic regression on all rows: as near to the optimum of the population as a run can be
    for loss in FOCAL[:-1]:
        noisy = replace(small("fashion-mnist", "linear", loss, seed, epochs=10), rows=None, decay=0.0)
        yield replace(noisy, label_noise=NOISE)


def _curvature_full(seed: int) -> Iterator[Recipe]:
    for data, nets in FULL.items():
        yield from (published(data, nets[0], loss, seed) for loss in FOCAL)
        yield from _controlled(published(data, nets[0], "ce", seed), CONTROLS)
        yield from (replace(published(data, nets[0], loss, seed), label_noise=NOISE) for loss in FOCAL[:-1])


def _controlled(recipe: Recipe, names: Iterable[str], strengths: int = 3) -> Iterator[Recipe]:
    """Yield the recipe with each control, of the weakest strengths."""
    for name in names:
        yield from (replace(recipe, **own) for own in CONTROLS[name][:strengths])  # type: ignore[arg-type]
