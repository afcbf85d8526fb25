"""AdaFocal on real images: where γ goes when its state is kept, and when the loss is rebuilt for every batch.

    python -P benchmarks/adafocal.py [--data fashion-mnist] [--epochs 12] [--seeds 3]

One small network each, the same data, seeds and order of batches: cross-entropy, AdaFocal, and AdaFocal made
anew for every batch, as in the code released with arXiv 2408.11598, where γ can only stay 1.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from images import arguments, load, small_network
from peers import describe_machine
from train_plain import logits_of

from focalcal import FocalTemperatureScaling, evaluate
from focalcal.nn import AdaFocalLoss


def train(images, kind, seed, epochs):
    """Return the network and the last loss."""
    torch.manual_seed(seed)
    model = small_network(images)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loss = torch.nn.CrossEntropyLoss() if kind == "cross-entropy" else AdaFocalLoss()
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(images.y_train), generator=order).split(64):
            if kind == "AdaFocal, rebuilt":
                loss = AdaFocalLoss()
            optimizer.zero_grad()
            loss(model(images.x_train[rows]), images.y_train[rows]).backward()
            optimizer.step()
        if kind == "AdaFocal":
            loss.update(logits_of(model, images.x_val), images.y_val)
    return model, loss


def main():
    parser = arguments(__doc__)
    parser.set_defaults(epochs=12)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = load(options.data, options.folder, options.rows)
    print(describe_machine(("focalcal", "torch")))
    n = f"{len(images.y_train)} training, {len(images.y_val)} validation, {len(images.y_test)} test images"
    print(f"{options.data}: {n}, {options.epochs} epochs\n")
    print(
        "| loss | seed | seconds | accuracy | NLL | ECE [95 %] | NLL, FTS | ECE, FTS [95 %] | bins with γ off 1 by .1 |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    gammas = []
    for seed in range(options.seeds):
        for kind in ("cross-entropy", "AdaFocal", "AdaFocal, rebuilt"):
            start = time.perf_counter()
            model, loss = train(images, kind, seed, options.epochs)
            seconds = time.perf_counter() - start
            validation, test = (logits_of(model, x).numpy() for x in (images.x_val, images.x_test))
            fitted = FocalTemperatureScaling().fit(validation, images.y_val)
            raw = evaluate(images.y_test, test, input="logits")
            after = evaluate(images.y_test, fitted.transform(test), input="logits")
            moved = "-"
            if isinstance(loss, AdaFocalLoss):
                moved = f"{int((loss.gamma - 1).abs().gt(0.1).sum())} of {loss.bins}"
                gammas += [(kind, seed, loss.gamma.numpy())]
            print(
                f"| {kind} | {seed} | {seconds:.0f} | {raw['accuracy'].value:.4f} | {raw['nll'].value:.4f} | {shown(raw)} "
                f"| {after['nll'].value:.4f} | {shown(after)} | {moved} |",
                flush=True,
            )
    print("\nγ of the bins at the end, least confident first:\n")
    for kind, seed, gamma in gammas:
        print(f"    {kind}, seed {seed}:", " ".join(f"{g:.2f}" for g in gamma))


def shown(evaluation):
    ece = evaluation["ece"]
    return f"{ece.value:.4f} [{ece.low:.4f}, {ece.high:.4f}]"


if __name__ == "__main__":
    main()
