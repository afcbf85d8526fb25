"""Images of the papers' experiments, read from the archives as their authors publish them."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from focalcal._settings import check_choice, check_count, optional_module

_Raw = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class Part:
    """Images (n, channels, height, width), uint8, and class indices (n,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.y)


@dataclass(frozen=True)
class ImageData:
    """A data set in three disjoint parts: to train on, to fit calibrators on, and to judge by."""

    name: str
    train: Part
    val: Part
    test: Part
    classes: int
    mean: tuple[float, ...]  # of each channel of pixels in [0, 1]
    std: tuple[float, ...]

    def normalised(self, x: Tensor) -> Tensor:
        """Return images as numbers that a network takes, float32."""
        mean, std = (torch.tensor(t, device=x.device)[:, None, None] for t in (self.mean, self.std))
        return (x.float() / 255 - mean) / std

    def smaller(self, rows: int, seed: int = 0) -> ImageData:
        """Return the same with at most so many images in each part, drawn at random."""
        check_count("rows", rows)

        def drawn(part: Part) -> Part:
            chosen = np.sort(np.random.default_rng(seed).permutation(len(part))[:rows])
            return Part(part.x[chosen], part.y[chosen])

        return replace(self, train=drawn(self.train), val=drawn(self.val), test=drawn(self.test))


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and how it is split."""

    file: str
    md5: str
    address: str
    read: Callable[[bytes], tuple[_Raw, _Raw]]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    held_out: int = 5000  # of the training images, for validation; 0 where the test images are halved


def open_dataset(name: str, folder: str | os.PathLike[str] = "data", *, seed: int = 1) -> ImageData:
    """Read a data set.

    Parameters
    ----------
    name : {"cifar10", "cifar100", "tinyimagenet", "fashion-mnist", "digits"}, or a file .npz
        CIFAR-10 and CIFAR-100 in their binary version, TinyImageNet, Debian's package of Fashion-MNIST,
        scikit-learn's digits (no file). An npz file in that folder has x_train, y_train, x_test, y_test,
        images (n, height, width[, channels]) of uint8, and val_mask, or a quarter is held out.
    folder : str or path-like
        Where the archives are, as they were downloaded. Nothing is downloaded here.
    seed : int
        Of the split into training and validation images.

    Returns
    -------
    ImageData
        Split as by Mukhoti et al.: a tenth of CIFAR's training images is for validation. TinyImageNet's own
        validation images are halved, since no labels of its test images are public: one half fits
        calibrators, the other judges.

    Raises
    ------
    FileNotFoundError
        With the address to download from and the place to put it.
    ValueError
        For an archive that is not the published one.

    References
    ----------
    Mukhoti et al. 2020, "Calibrating deep neural networks using focal loss", arXiv 2002.09437.

    Examples
    --------
    >>> digits = open_dataset("digits")
    >>> len(digits.train), len(digits.val), len(digits.test), tuple(digits.train.x.shape[1:])
    (1000, 300, 497, (1, 8, 8))
    """
    if str(name).endswith(".npz"):
        return _of_npz(Path(folder) / name, seed)
    if name == "digits":
        return _digits(seed)
    if name == "fashion-mnist":
        return _fashion(Path(folder), seed)
    check_choice("name", name, (*SOURCES, "fashion-mnist", "digits"))
    source = SOURCES[name]
    train, test = source.read(_checked(Path(folder) / source.file, source))
    return _split(name, train, test, source.held_out, seed, source.classes, (source.mean, source.std))


def check_dataset(name: str, folder: str | os.PathLike[str]) -> None:
    """Raise what `open_dataset` would of a missing or wrong file; images of archives are not read."""
    if name in SOURCES:
        _checked(Path(folder) / SOURCES[name].file, SOURCES[name])
    else:
        open_dataset(name, folder)


def _split(
    name: str,
    train: _Raw,
    test: _Raw,
    held_out: int,
    seed: int,
    classes: int,
    scale: tuple[tuple[float, ...], tuple[float, ...]],
) -> ImageData:
    if held_out:
        order = np.random.default_rng(seed).permutation(len(train[1]))
        first, second = order[held_out:], order[:held_out]
        parts = [(train, first), (train, second), (test, np.arange(len(test[1])))]
    else:
        order = np.random.default_rng(seed).permutation(len(test[1]))
        first, second = np.array_split(order, 2)
        parts = [(train, np.arange(len(train[1]))), (test, first), (test, second)]
    a, b, c = (_part(images[np.sort(rows)], labels[np.sort(rows)]) for (images, labels), rows in parts)
    return ImageData(name, a, b, c, classes, *scale)


def _part(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Part:
    """Return images (n, height, width, channels) as torch takes them."""
    x = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return Part(torch.from_numpy(x), torch.from_numpy(labels.astype(np.int64)))


def _checked(path: Path, source: Source) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected {source.file} in {path.parent}, found no such file. Download it from {source.address} "
            "and put it there as it is, or name its folder."
        )
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != source.md5:
        raise ValueError(
            f"Expected {path} to have the checksum {source.md5} (MD5), got {found}: it is another file, or "
            f"the download was cut short. Download it again from {source.address}."
        )
    return content


def _cifar10(content: bytes) -> tuple[_Raw, _Raw]:
    files = _members(content, [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"])
    return _records(b"".join(files[:5]), 1), _records(files[5], 1)


def _cifar100(content: bytes) -> tuple[_Raw, _Raw]:
    train, test = _members(content, ["train.bin", "test.bin"])
    return _records(train, 2), _records(test, 2)  # the coarse label comes first


def _members(content: bytes, names: list[str]) -> list[bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = {Path(member.name).name: member for member in archive if member.isfile()}
        opened = [archive.extractfile(files[name]) for name in names]
        return [file.read() for file in opened if file is not None]


def _records(content: bytes, labels: int) -> _Raw:
    """Read rows of label bytes and 3 × 32 × 32 pixels; the last label counts."""
    rows = np.frombuffer(content, np.uint8).reshape(-1, labels + 3072)
    images = rows[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, rows[:, labels - 1].astype(np.int64)


def _tinyimagenet(content: bytes) -> tuple[_Raw, _Raw]:
    image = optional_module("PIL.Image", "Reading TinyImageNet", "plot")
    train: tuple[list[NDArray[np.uint8]], list[int]] = ([], [])
    test: tuple[list[NDArray[np.uint8]], list[int]] = ([], [])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.read("tiny-imagenet-200/wnids.txt").decode().split()
        number = {name: i for i, name in enumerate(sorted(names))}
        told = archive.read("tiny-imagenet-200/val/val_annotations.txt").decode().splitlines()
        of_val = {line.split("\t")[0]: number[line.split("\t")[1]] for line in told}
        for file in sorted(archive.namelist()):
            if not file.endswith(".JPEG") or "/test/" in file:
                continue
            images, labels = train if "/train/" in file else test
            with image.open(io.BytesIO(archive.read(file))) as opened:
                images.append(np.asarray(opened.convert("RGB")))
            labels.append(number[file.split("/")[2]] if "/train/" in file else of_val[Path(file).name])
    first, second = ((np.stack(images), np.array(labels)) for images, labels in (train, test))
    return first, second


def _fashion(folder: Path, seed: int) -> ImageData:
    debian = Path("/usr/share/datasets/fashion-mnist")
    where = folder if (folder / "train-images-idx3-ubyte.gz").is_file() else debian
    if not where.is_dir():
        raise FileNotFoundError(
            f"Expected Fashion-MNIST's four files in {folder} or {debian}, found neither. On Debian: apt-get "
            "install dataset-fashion-mnist; elsewhere put the four .gz files into the folder."
        )
    parts = []
    for part in ("train", "t10k"):
        images, labels = (_idx(where / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
        parts.append((images[..., None], labels.astype(np.int64)))
    return _split("fashion-mnist", parts[0], parts[1], 6000, seed, 10, ((0.2860,), (0.3530,)))


def _idx(path: Path) -> NDArray[np.uint8]:
    """Read the format of MNIST: two zeros, type, number of axes, their lengths, the bytes."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _digits(seed: int) -> ImageData:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = np.round(x * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = ((images[rows], y[rows].astype(np.int64)) for rows in (order[:1300], order[1300:]))
    return _split("digits", train, test, 300, seed, 10, ((0.3058,), (0.3769,)))


def _of_npz(path: Path, seed: int) -> ImageData:
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
            mask = file["val_mask"].astype(bool) if "val_mask" in file else None
    except FileNotFoundError as error:
        raise FileNotFoundError(f"Expected {path.name} in {path.parent}, found no such file.") from error
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"Expected an npz file with x_train, y_train, x_test and y_test, got {str(path)!r}: {error}."
        ) from error
    if held["x_train"].dtype != np.uint8:
        raise ValueError(f"Expected images of uint8, got {held['x_train'].dtype}. Store pixels 0 to 255.")
    images = {part: held[f"x_{part}"] for part in ("train", "test")}
    wide = {part: x[..., None] if x.ndim == 3 else x for part, x in images.items()}
    train, test = ((wide[part], held[f"y_{part}"].astype(np.int64)) for part in ("train", "test"))
    classes = int(train[1].max()) + 1
    pixels = wide["train"].astype(np.float64) / 255
    scale = tuple(pixels.mean((0, 1, 2)).tolist()), tuple(pixels.std((0, 1, 2)).tolist())
    if mask is None:
        return _split(path.stem, train, test, len(train[1]) // 4, seed, classes, scale)
    fitted, held_out = (_part(train[0][rows], train[1][rows]) for rows in (~mask, mask))
    return ImageData(path.stem, fitted, held_out, _part(*test), classes, *scale)


_TORONTO, _STANFORD = "https://www.cs.toronto.edu/~kriz", "http://cs231n.stanford.edu"

#: Archives, with the checksums that their authors publish.
SOURCES = {
    "cifar10": Source(
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        f"{_TORONTO}/cifar-10-binary.tar.gz",
        _cifar10,
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    ),
    "cifar100": Source(
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        f"{_TORONTO}/cifar-100-binary.tar.gz",
        _cifar100,
        100,
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    ),
    "tinyimagenet": Source(
        "tiny-imagenet-200.zip",
        "90528d7ca1a48142e341f4ef8d21d0de",
        f"{_STANFORD}/tiny-imagenet-200.zip",
        _tinyimagenet,
        200,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        held_out=0,
    ),
}
