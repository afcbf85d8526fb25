"""Labelled images (or other inputs) of a folder or an npz file, as batches for a model."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from focalcal._settings import check_count, optional_module

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class LabelledInputs:
    """Inputs with their classes; iterating gives batches (inputs, labels), the same each time.

    Pixels stay bytes until their batch is asked for: as numbers in [0, 1], less `mean`, over `std`.
    """

    x: Tensor  # (n, channels, height, width) uint8, or (n, …) float32 as the model takes it
    y: Tensor  # (n,) int64
    classes: tuple[str, ...]
    whole: int  # rows that there were to draw from
    mean: Tensor  # (channels,)
    std: Tensor  # (channels,)
    batch_size: int

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.y) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches."""
        for first in range(0, len(self.y), self.batch_size):
            rows = slice(first, first + self.batch_size)
            x, y = self.x[rows], self.y[rows]
            if x.dtype == torch.uint8:
                x = (x.float() / 255 - self.mean[:, None, None]) / self.std[:, None, None]
            yield x, y


def open_inputs(
    path: str | os.PathLike[str],
    *,
    rows: int = 2000,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    batch_size: int = 128,
    seed: int = 0,
) -> LabelledInputs:
    """Read labelled inputs into memory.

    Parameters
    ----------
    path : str or path-like
        A folder with a folder of images (png, jpg) for each class, which are numbered in the order of their
        names as torchvision's ImageFolder numbers them; or an npz file with arrays x and y. Its x of uint8 is
        images, (n, height, width) or (n, height, width, channels); other numbers are what the model takes.
    rows : int
        The most rows that are kept, drawn at random without replacement.
    size : (height, width), optional
        To which images of a folder are resized, bilinearly. Default: they must be of one size.
    mean, std : sequence of float
        Of each channel, for pixels in [0, 1]; one number for grey images, three for colours.
    batch_size : int
        Rows of a batch.
    seed : int
        Of the draw.

    Returns
    -------
    LabelledInputs
        Rows in their own order.

    Raises
    ------
    ValueError, FileNotFoundError
        For what is not such a folder or file, images of different sizes, channels that do not fit.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/two.npz", x=np.full((2, 1, 1), 255, np.uint8), y=[0, 1])
    ...     inputs = open_inputs(f"{folder}/two.npz", mean=[0.5], std=[0.25])
    >>> [(x.flatten().tolist(), y.tolist()) for x, y in inputs]
    [([2.0, 2.0], [0, 1])]
    """
    check_count("rows", rows)
    check_count("batch_size", batch_size)
    if len(mean) != len(std) or len(mean) not in (1, 3) or not all(value > 0 for value in std):
        raise ValueError(
            f"Expected mean and std of one channel (grey) or three (colours), std above 0, got {list(mean)} "
            f"and {list(std)}."
        )
    if os.path.isdir(path):
        x, y, classes, whole = _of_folder(Path(path), rows, size, len(mean), seed)
    else:
        if size is not None:
            raise ValueError(
                "Expected no size for an npz file, whose rows are taken as they are. Leave it out."
            )
        x, y, classes, whole = _of_npz(Path(path), rows, len(mean), seed)
    return LabelledInputs(
        *(torch.from_numpy(x), torch.from_numpy(y), classes, whole),
        *(torch.tensor(list(mean), dtype=torch.float32), torch.tensor(list(std), dtype=torch.float32)),
        batch_size,
    )


_Found = tuple[NDArray[Any], NDArray[np.int64], tuple[str, ...], int]


def _drawn(n: int, rows: int, seed: int) -> NDArray[np.int64]:
    """Return the rows that are kept, in order."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:rows])


def _of_folder(folder: Path, rows: int, size: tuple[int, int] | None, channels: int, seed: int) -> _Found:
    classes, files = _files(folder)
    image = optional_module("PIL.Image", "Reading images", "plot")
    chosen = [files[row] for row in _drawn(len(files), rows, seed)]
    found: list[NDArray[np.uint8]] = []
    for file, _ in chosen:
        try:
            with image.open(file) as opened:
                drawn = opened.convert("RGB" if channels == 3 else "L")
        except (OSError, SyntaxError) as error:
            raise ValueError(f"Expected an image, got {str(file)!r}: {error}. Remove it.") from error
        if size is not None:
            drawn = drawn.resize(size[::-1], image.Resampling.BILINEAR)
        found.append(np.asarray(drawn).reshape(drawn.height, drawn.width, channels))
        if found[-1].shape != found[0].shape:
            first, other = ("x".join(map(str, one.shape[:2])) for one in (found[0], found[-1]))
            raise ValueError(
                f"Expected images of one size, got {first} and, in {str(file)!r}, {other}. Give the size "
                f"that the model takes (--size {first})."
            )
    x = np.ascontiguousarray(np.stack(found).transpose(0, 3, 1, 2))
    return x, np.array([label for _, label in chosen], np.int64), classes, len(files)


def _files(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Return the classes, and each image with its class."""
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if len(classes) == 1 and files:
        raise ValueError(
            f"Expected a folder of at least two classes' folders, got {classes[0]!r} alone in "
            f"{str(folder)!r}. Name the folder that holds the classes' folders."
        )
    without = set(range(len(classes))) - {label for _, label in files}
    if not files or without:
        where = folder / classes[min(without)] if files else folder
        raise ValueError(
            f"Expected a folder of images ({', '.join(SUFFIXES)}) for each class, got none in "
            f"{str(where)!r}. Name the folder that holds the classes' folders."
        )
    return classes, files


def _of_npz(path: Path, rows: int, channels: int, seed: int) -> _Found:
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y = file["x"], file["y"]
    except (KeyError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"Expected a folder with a folder for each class, or an npz file with arrays x and y, got "
            f"{str(path)!r}: {error}."
        ) from error
    kinds = x.dtype.kind in "fiu" and y.dtype.kind in "iu"
    if not kinds or x.ndim < 2 or y.shape != x.shape[:1] or not len(y) or y.min() < 0:
        raise ValueError(
            f"Expected numbers x of shape (n, …) and classes 0, 1, … in y of shape (n,), got {x.dtype} of "
            f"shape {x.shape} and {y.dtype} of shape {y.shape}. Drop rows that have no class."
        )
    classes, kept = tuple(str(label) for label in range(int(y.max()) + 1)), _drawn(len(y), rows, seed)
    return _as_taken(x[kept], channels), y[kept].astype(np.int64), classes, len(y)


def _as_taken(x: NDArray[Any], channels: int) -> NDArray[Any]:
    """Return images of uint8 with their channels first, other numbers as float32."""
    if x.dtype != np.uint8:
        return x.astype(np.float32)
    images = x[..., None] if x.ndim == 3 else x
    if images.ndim != 4 or images.shape[3] != channels:
        raise ValueError(
            f"Expected images of uint8 with channels last, {channels} as in mean and std, got x of shape "
            f"{x.shape}. Give one mean and std for grey images, or x of float32 as the model takes it."
        )
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
