"""What is known of a data set without its archive, and random images in that shape."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from focalcal._settings import check_count
from focalcal.experiments.datasets import ImageData, Part


class Shape(NamedTuple):
    """What is known of a data set without its images."""

    channels: int
    side: int  # pixels
    classes: int
    train: int  # images to train on
    val: int


#: By name, as `open_dataset` splits them.
SHAPES = {
    "cifar10": Shape(3, 32, 10, 45_000, 5000),
    "cifar100": Shape(3, 32, 100, 45_000, 5000),
    "tinyimagenet": Shape(3, 64, 200, 100_000, 5000),
    "fashion-mnist": Shape(1, 28, 10, 54_000, 6000),
    "digits": Shape(1, 8, 10, 1000, 300),
}


def shape_of(name: str, images: ImageData | None = None) -> Shape:
    """Return the shape of a data set by its name; of a file, that of the images that were read from it."""
    if name in SHAPES:
        return SHAPES[name]
    if images is None:
        raise ValueError(
            f"Expected a data set of {', '.join(SHAPES)}, got {name!r}, of which nothing is known before it "
            "is read. Pass what open_dataset returns as images."
        )
    channels, side = images.train.x.shape[1:3]
    return Shape(channels, side, images.classes, len(images.train), len(images.val))


def made_images(data: str | Shape, rows: int, seed: int = 0) -> ImageData:
    """Return random images in a data set's shape, for a try.

    Parameters
    ----------
    data : str or Shape
        A name of `SHAPES`, or another shape.
    rows : int
        Images of each part.
    seed : int
        Of pixels and labels.

    Returns
    -------
    ImageData

    Raises
    ------
    ValueError
        For another name, or no rows.

    Examples
    --------
    >>> made = made_images("tinyimagenet", 2)
    >>> made.classes, len(made.val), tuple(made.train.x.shape)
    (200, 2, (2, 3, 64, 64))
    """
    shape = shape_of(data) if isinstance(data, str) else data
    rng, n = np.random.default_rng(seed), check_count("rows", rows)

    def part() -> Part:
        pixels = rng.integers(256, size=(n, shape.channels, shape.side, shape.side), dtype=np.uint8)
        return Part(torch.from_numpy(pixels), torch.from_numpy(rng.integers(shape.classes, size=n)))

    scale = (0.5,) * shape.channels, (0.25,) * shape.channels
    return ImageData("made", part(), part(), part(), shape.classes, *scale)
