"""Control the curvature in training, and see what it does to calibration: penalties on the trace, SAM, decay.

    OMP_NUM_THREADS=1 python -P benchmarks/curvature_control.py --images cifar10_images.npz [--seeds 5]

One small network with BatchNorm on a few thousand CIFAR-10 images, halved to 16 × 16: the same data, starts and
order of batches for every way to train. The file has x_train (n, 32, 32, 3), y_train, x_test and y_test. Half of the
test images fit a temperature, the other half judge. The trace is that of the GGN of cross-entropy on the training
images in eval mode, by Hutchinson's probes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from peers import describe_machine

from focalcal import TemperatureScaling, evaluate
from focalcal.curvature import SAM, LossSurface, TracePenalty, hutchinson_trace

WAYS: dict[str, dict[str, float]] = {
    "CE": {},
    "CE, 32 epochs": {"epochs": 32},
    "CE + TracePenalty(3e-5, every=4)": {"trace": 3e-5},
    "CE + TracePenalty(1e-4, every=4)": {"trace": 1e-4},
    "CE, AdamW's weight decay 0.3": {"decay": 0.3},
    "CE, SAM(rho=0.05)": {"sam": 0.05},
}
COLUMNS = ("seconds", "accuracy", "training loss", "trace", "NLL", "ECE", "NLL, TS", "ECE, TS", "T")


def load(file: str, rows: int) -> dict[str, torch.Tensor]:
    """Return images (n, 3, 16, 16) around 0 and labels."""
    with np.load(file) as saved:
        found = {}
        for part, count in (("train", rows), ("test", None)):
            x = torch.from_numpy(saved[f"x_{part}"][:count]).float().permute(0, 3, 1, 2) / 255
            found[f"x_{part}"] = (nn.functional.avg_pool2d(x, 2) - 0.47) / 0.24
            found[f"y_{part}"] = torch.from_numpy(saved[f"y_{part}"][:count]).long()
    return found


def network() -> nn.Sequential:
    """Return a network of two blocks and 6,874 parameters."""

    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(3, 12), *block(12, 24), nn.Flatten(), nn.Linear(384, 10))


def train(data: dict[str, torch.Tensor], seed: int, epochs: int, how: dict[str, float]) -> nn.Sequential:
    """Return a trained network."""
    torch.manual_seed(seed)
    epochs = int(how.get("epochs", epochs))
    net, loss = network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=how.get("decay", 0.0))
    penalty = TracePenalty(how["trace"], every=4, seed=seed) if "trace" in how else None
    sam = SAM(net, rho=how["sam"]) if "sam" in how else None
    order = torch.Generator().manual_seed(seed)
    batches = -(-len(data["y_train"]) // 100) * epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(data["y_train"]), generator=order).split(100):
            x, y = data["x_train"][rows], data["y_train"][rows]

            def value(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                return loss(net(x), y)

            optimizer.zero_grad()
            if sam is not None:
                sam.backward(value)
            else:
                (value() if penalty is None else value() + penalty(net, loss, x, y)).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def judged(net: nn.Sequential, data: dict[str, torch.Tensor]) -> list[float]:
    """Return accuracy, training loss, trace, and calibration before and after temperature scaling."""
    loss = nn.CrossEntropyLoss()
    batches = list(zip(data["x_train"].split(500), data["y_train"].split(500), strict=True))
    surface = LossSurface(net, loss, batches)
    trace = hutchinson_trace(surface, probes=16, matrix="ggn")
    with torch.no_grad():
        z, y = net(data["x_test"]).numpy(), data["y_test"].numpy()
    half = len(y) // 2
    scaled = TemperatureScaling().fit(z[:half], y[:half])
    raw = evaluate(y[half:], z[half:], input="logits")
    after = evaluate(y[half:], scaled.transform(z[half:]), input="logits")
    return [
        raw["accuracy"].value,
        surface.value(),
        trace.value,
        *(e[name].value for e in (raw, after) for name in ("nll", "ece")),
        scaled.temperature_,
    ]


def main() -> None:
    """Print a table: mean ± standard error over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", required=True, help="npz file of images")
    parser.add_argument("--rows", type=int, default=2000, help="training images")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load(options.images, options.rows)
    print(describe_machine(("focalcal", "torch")))
    print(f"{options.rows} training images, {options.epochs} epochs, {options.seeds} seeds\n")
    print("| way |", " | ".join(COLUMNS), "|\n|", " | ".join(["---"] * (1 + len(COLUMNS))), "|")
    for name, how in WAYS.items():
        found = []
        for seed in range(options.seeds):
            start = time.perf_counter()
            net = train(data, seed, options.epochs, how)
            found.append([time.perf_counter() - start, *judged(net, data)])
        table = np.array(found)
        error = table.std(0, ddof=1) / len(table) ** 0.5 if len(table) > 1 else table[0] * np.nan
        cells = (f"{m:.4g} ± {e:.2g}" for m, e in zip(table.mean(0), error, strict=True))
        print(f"| {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
