"""What the training examples share: real images, a small network, and how a result is printed.

    fashion-mnist   70,000 pictures of clothes (Debian: apt-get install dataset-fashion-mnist, or --folder)
    digits          1,797 handwritten digits that come with scikit-learn
    FILE.npz        x_train, y_train, x_test, y_test: uint8 images (n, height, width[, 3]) and labels

The training images are split into training and validation rows; calibrators see validation rows, and results
are of test rows, which nothing was fitted on.
"""

from __future__ import annotations

import argparse
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import focalcal

FASHION = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Images:
    """Images (n, channels, height, width) in [-0.5, 0.5] and labels (n,), in three parts."""

    x_train: torch.Tensor
    y_train: torch.Tensor
    x_val: torch.Tensor
    y_val: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor

    @property
    def n_classes(self) -> int:
        return int(self.y_train.max()) + 1


def arguments(description: str) -> argparse.ArgumentParser:
    """Return the options that every example has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion-mnist", help="fashion-mnist, digits, or a file .npz")
    parser.add_argument("--folder", type=Path, default=FASHION, help="where Fashion-MNIST's four files are")
    parser.add_argument("--rows", type=int, default=12_000, help="training and validation rows to use")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def load(data: str, folder: Path = FASHION, rows: int = 12_000) -> Images:
    """Return the images, a quarter of the rows for validation."""
    if data == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x, order = x.reshape(-1, 8, 8) * (255 / 16), np.random.default_rng(0).permutation(len(y))
        x, y = x[order], y[order]
        x, y, x_test, y_test = x[:1000], y[:1000], x[1000:], y[1000:]
    elif data == "fashion-mnist":
        if not folder.is_dir():
            raise SystemExit(
                f"Expected Fashion-MNIST in {folder}. On Debian: apt-get install dataset-fashion-mnist; "
                "elsewhere pass --folder; or use --data digits, which needs no file."
            )
        x, y, x_test, y_test = (_idx(folder / name) for name in FILES)
    else:
        with np.load(data) as saved:
            x, y, x_test, y_test = (saved[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, y = x[:rows], y[:rows]
    n_val = len(y) // 4
    parts = (x[n_val:], y[n_val:], x[:n_val], y[:n_val], x_test, y_test)
    return Images(
        *(_images(part) if i % 2 == 0 else torch.as_tensor(part.astype(int)) for i, part in enumerate(parts))
    )


FILES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def _idx(path: Path) -> np.ndarray:
    """Read the format of MNIST: two zeros, type, number of axes, their lengths, the bytes."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _images(x: np.ndarray) -> torch.Tensor:
    scaled = torch.as_tensor(np.asarray(x, dtype=np.float32) / 255 - 0.5)
    return scaled.unsqueeze(1) if scaled.dim() == 3 else scaled.movedim(3, 1).contiguous()


def small_network(images: Images) -> nn.Module:
    """Return two convolutions and two layers: enough to become too sure of itself in minutes."""
    channels, height, width = images.x_train.shape[1:]
    pixels = -(-height // 4) * -(-width // 4)  # each convolution halves both sides, rounded up
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * pixels, 64),
        nn.ReLU(),
        nn.Linear(64, images.n_classes),
    )


def flat(*parts: torch.Tensor) -> np.ndarray:
    """Return images as rows (n, pixels), or labels, in NumPy, for libraries without convolutions."""
    return np.concatenate([part.flatten(start_dim=min(part.dim() - 1, 1)).numpy() for part in parts])


def logits_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what a model says of images (n, channels, height, width), as it will be used."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(part) for part in x.split(1000)])


def report(y: torch.Tensor, raw: np.ndarray, calibrated: np.ndarray) -> None:
    """Print the test rows' numbers with their intervals, before and after, and whether the change is real."""
    y = np.asarray(y)
    for title, log_probs in (("raw", raw), ("calibrated", calibrated)):
        print(f"\n{title}\n{focalcal.evaluate(y, log_probs, input='logits')}")
    print(f"\ncalibrated against raw\n{focalcal.compare(y, raw, calibrated, input='logits')}")
