"""How curvature moves with focal loss's γ, and whether calibration moves with it.

    python -P benchmarks/geometry.py --checkpoints FOLDER [--data ../shared/data] [--write FILE]

Trains the nets that FOLDER does not hold yet (`geometry_nets.py`), measures each (kept beside it as JSON), and
prints the tables. Curvature is of the loss on training rows in eval mode: of the loss that the net was trained
with, and of cross-entropy at the same weights. Calibration is of the test rows, before and after temperature
scaling fitted on the validation rows.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from geometry_nets import RECIPES, Net, arguments, load, logits_of, planned, trained, training_rows
from geometry_tables import (
    common,
    cooled_rows,
    correlation_rows,
    curvature_rows,
    judged_rows,
    own,
    ratio_rows,
)
from peers import describe_machine

import focalcal
from focalcal.curvature import LossSurface, structured_trace, top_eigenvalues
from focalcal.nn import FocalLoss

NOTES = """\
Means over seeds ± standard error. Same recipe, first weights and order of batches for every γ. Curvature: eval mode,
mean loss in nats over the training rows (CIFAR: 1,000 evenly spread ones); traces from sketches of every row, the
largest eigenvalue by Lanczos's method, the Frobenius norm from six probes, sharpness as the rise of the loss at .05
uphill. "own" is the loss that was trained, "common" cross-entropy at the same weights, "divided" cross-entropy with
the last layer divided by the temperature fitted on the validation rows. ECE: 15 equal-width bins, top label. In ratios
and differences: 95 % intervals of Student's over seeds. Correlations: 95 % intervals of 2,000 bootstraps, of seeds and
then of nets within each."""

#: The most training rows on which curvature is measured.
ROWS = 1000
#: Radius of the step uphill, as in SAM.
RADIUS = 0.05


def batches(x: torch.Tensor, y: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return batches of 250 rows, of evenly spread rows if there are too many."""
    if len(y) > ROWS:
        chosen = torch.linspace(0, len(y) - 1, ROWS).long()
        x, y = x[chosen], y[chosen]
    return list(zip(x.split(250), y.split(250), strict=True))


def curvature(
    model: torch.nn.Module, gamma: float, x: torch.Tensor, y: torch.Tensor, seed: int
) -> dict[str, float]:
    """Return the curvature of focal loss (γ = 0: cross-entropy) at a model's weights."""
    loss = FocalLoss(gamma) if gamma else torch.nn.CrossEntropyLoss()
    surface = LossSurface(model, loss, batches(x, y))
    # of these nets, piecewise linear in each layer's weights, the trace of the Hessian is the GGN's
    trace = structured_trace(surface, sketches=64 if len(y) <= ROWS else 4, seed=seed)
    probes = (
        torch.randint(2, (surface.size, 6), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
    )
    found = {
        "loss": surface.value(),
        "trace": trace.value,
        "trace stderr": trace.stderr,
        "top": float(top_eigenvalues(surface, 3, tolerance=1e-5, seed=seed).values[0]),
        "frobenius": math.sqrt(float(surface.hessian_product(probes).square().sum(0).mean())),
    }
    gradient = surface.gradient()
    uphill, before = surface.parameters.split(RADIUS * gradient / gradient.norm()), surface.value()
    climbed = copy.deepcopy(model)
    named = dict(climbed.named_parameters())
    with torch.no_grad():
        for name, step in zip(surface.parameters.names, uphill, strict=True):
            named[name] += step
    found["sharpness"] = LossSurface(climbed, loss, surface.loader).value() - before
    return found | {"gradient norm": float(gradient.norm())}


def judged(net: Net, model: torch.nn.Module, folder: Path) -> dict[str, object]:
    """Return accuracy, NLL, ECE and the mean gap, before and after temperature scaling."""
    images = load(RECIPES[net.study].data, folder)
    validation, test = (logits_of(model, x).double().numpy() for x in (images.val[0], images.test[0]))
    fitted = focalcal.TemperatureScaling().fit(validation, images.val[1].numpy())
    y, found = images.test[1].numpy(), {"temperature": fitted.temperature_}
    for name, scores in (("before", test), ("after", fitted.transform(test))):
        error = focalcal.ece(y, scores, input="logits")
        p = torch.from_numpy(scores).softmax(1).numpy()
        right = float((p.argmax(1) == y).mean())
        found[name] = {
            "accuracy": right,
            "nll": focalcal.nll(y, scores, input="logits").value,
            "ece": error.value,
            "ece interval": [error.low, error.high],
            "gap": float(p.max(1).mean()) - right,
        }
    return found


def cooled(model: torch.nn.Module, temperature: float) -> torch.nn.Module:
    """Return a copy whose last layer is divided by the temperature: temperature scaling in the weights."""
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in [module for module in scaled.modules() if isinstance(module, torch.nn.Linear)][
            -1
        ].parameters():
            tensor /= temperature
    return scaled


def measured(net: Net, checkpoints: Path, folder: Path) -> dict:
    """Return what is known of a net, measured once."""
    path = checkpoints / f"{net.name}.json"
    if path.exists():
        return json.loads(path.read_text())
    model = trained(net, checkpoints, folder)
    start, (x, y) = time.perf_counter(), training_rows(net, folder)
    right = (logits_of(model, x).argmax(1) == y).double().mean()
    found = {"training accuracy": float(right), "judged": judged(net, model, folder)}
    found["common"] = curvature(model, 0.0, x, y, net.seed)
    found["own"] = curvature(model, net.gamma, x, y, net.seed) if net.gamma else found["common"]
    if not net.noise and (not net.gamma or net.study == "digits"):  # CIFAR's take long
        found["cooled"] = curvature(cooled(model, found["judged"]["temperature"]), 0.0, x, y, net.seed)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(found, indent=1))
    aside.replace(path)
    print(f"{net.name}: measured in {time.perf_counter() - start:.0f} s", flush=True)
    return found


def section(study: str, found: dict[Net, dict]) -> list[str]:
    """Return the tables of one study."""
    clean = {net: one for net, one in found.items() if not net.noise}
    noisy = {net: one for net, one in found.items() if net.noise}
    lines = [f"## {study}", "", RECIPES[study].words, ""]
    if clean:
        lines += ["### Calibration of the test rows", "", *judged_rows(clean), ""]
        lines += ["### Curvature of the loss that was trained", "", *curvature_rows(clean, own), ""]
        lines += [
            "### Curvature of cross-entropy at the same weights",
            "",
            *curvature_rows(clean, common),
            "",
        ]
        lines += ["### Ratio to γ = 0, same seed", "", *ratio_rows(clean), ""]
        lines += ["### Rank correlation (Spearman)", "", *correlation_rows(clean), ""]
        lines += ["### The last layer divided by T", "", *cooled_rows(clean), ""]
    if noisy:
        lines += ["### 20 % of the training labels flipped", "", "Of the loss that was trained:", ""]
        lines += [
            *curvature_rows(noisy, own),
            "",
            "Of cross-entropy:",
            "",
            *curvature_rows(noisy, common),
            "",
            "Ratio to γ = 0, same seed (ECE is of true labels):",
            "",
            *ratio_rows(noisy),
            "",
        ]
    return lines


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--kept", action="store_true", help="only what is measured already")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.checkpoints.mkdir(parents=True, exist_ok=True)
    machine = describe_machine(("focalcal", "torch", "numpy", "scikit-learn"))
    lines = [
        "# Curvature and calibration as γ grows",
        "",
        f"{machine}. Printed by `benchmarks/geometry.py`.",
        "",
        NOTES,
        "",
    ]
    for study in [one for one in options.study or RECIPES if one != "resnet20"]:
        nets = [net for net in planned(study) if options.seed is None or net.seed in options.seed]
        if options.kept:
            nets = [net for net in nets if (options.checkpoints / f"{net.name}.json").exists()]
        lines += section(study, {net: measured(net, options.checkpoints, options.data) for net in nets})
    text = "\n".join(lines)
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
