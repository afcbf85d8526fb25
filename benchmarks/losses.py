"""Cost of forward + backward of the losses as a ratio to torch's cross_entropy.

    python -P benchmarks/losses.py [--repeats 200] [--cases 256x10,256x1000,64x50257] [--threads 1]

All losses are timed in every repeat of one run, in an order that changes; medians count. The naive focal loss (log_softmax,
gather, power), which gives NaN gradients for γ < 1 on sure rows, and AdaFocal with a loop over samples are there
for scale.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from focalcal import nn as fnn

sys.path.insert(0, str(Path(__file__).parent))
from peers import describe_machine


def naive_focal(z, y):
    log_q = F.log_softmax(z, 1).gather(1, y.unsqueeze(1)).squeeze(1)
    return -((1 - log_q.exp()) ** 2 * log_q).mean()


def looped_adafocal(z, y):
    """AdaFocal as its authors' script has it: samples are read one by one, each bin's limits are tried in turn."""
    log_q = F.log_softmax(z, 1).gather(1, y.unsqueeze(1)).squeeze(1)
    bins = {b: {"low": b / 15, "high": (b + 1) / 15, "gamma": 1.0 if b < 10 else -0.5} for b in range(15)}
    q, gammas = log_q.exp(), []
    for i in range(len(q)):
        own = q[i].item()
        place = next((b for b, limits in bins.items() if limits["low"] <= own < limits["high"]), 14)
        gammas.append(bins[place]["gamma"])
    gamma = torch.tensor(gammas)
    return -((1 - torch.sign(gamma) * log_q.exp()) ** gamma.abs() * log_q).mean()


def losses():
    adafocal = fnn.AdaFocalLoss()
    adafocal.gamma[10:] = -0.5
    return {
        "cross_entropy": F.cross_entropy,
        "focal": fnn.FocalLoss(2.0),
        "dual": fnn.DualFocalLoss(2.0),
        "adafocal": adafocal,
        "flsd-53": fnn.FLSDLoss(),
        "inverse": fnn.InverseFocalLoss(2.0),
        "brier": fnn.BrierLoss(),
        "proper": fnn.ProperFocalLoss(2.0),
        "naive focal": naive_focal,
        "looped adafocal": looped_adafocal,
    }


def measure(n, n_classes, repeats):
    torch.manual_seed(0)
    z = torch.randn(n, n_classes, requires_grad=True)
    y = torch.randint(n_classes, (n,))
    times = {name: [] for name in losses()}
    every = list(losses().items())
    shuffle = random.Random(0).shuffle
    for repeat in range(repeats + 3):
        shuffle(every)  # what ran before leaves its marks in the caches
        for name, loss in every:
            if name == "proper" and repeat % 10 and repeat > 3:
                continue  # it takes as long as all others together
            z.grad = None
            start = time.perf_counter()
            loss(z, y).backward()
            if repeat >= 3:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--cases", default="256x10,256x1000,64x50257")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(describe_machine(("focalcal", "torch")))
    for case in arguments.cases.split(","):
        n, n_classes = map(int, case.split("x"))
        repeats = max(11, min(arguments.repeats, arguments.repeats * 2_000_000 // (n * n_classes) // 10))
        found = measure(n, n_classes, repeats)
        base = found["cross_entropy"]
        print(f"\n({n}, {n_classes}): cross_entropy {base * 1e6:.0f} µs, median of {repeats}")
        for name, seconds in found.items():
            print(f"  {name:16s} {seconds / base:7.2f} times")


if __name__ == "__main__":
    main()
