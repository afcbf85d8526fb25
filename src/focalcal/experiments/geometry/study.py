"""Does focal loss flatten the surface, and does that calibrate? What is measured of each trained network."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import nn

from focalcal.calibrators import TemperatureScaling
from focalcal.curvature import LossSurface, structured_trace, top_eigenvalues
from focalcal.curvature.rows.logit_hessian import logit_hessian
from focalcal.experiments.datasets import ImageData
from focalcal.experiments.recipes import LOSSES, NETS, Recipe
from focalcal.experiments.scaling.study import Scores, read_scores
from focalcal.experiments.train import noisy
from focalcal.io.files import written_aside
from focalcal.maps import inverse_focal_map
from focalcal.metrics import ece, nll
from focalcal.nn import FocalLoss

Found = dict[str, Any]

#: Of the training images, evenly spread, on which curvature is measured; sketches of each row.
ROWS, SKETCHES = 500, 4

#: Changes with what is measured; kept results of another one are found anew.
_VERSION = 1

#: Relative error at which the largest eigenvalue is taken as found: far below its spread over seeds.
_TOLERANCE = 1e-3


def measured(recipe: Recipe, data: ImageData, folder: Path) -> Found:
    """Return what is known of a finished run, measured once and kept as "curvature.json" in its folder.

    Parameters
    ----------
    recipe : Recipe
        Of the run.
    data : ImageData
        What it was trained on.
    folder : Path
        Of the run.

    Returns
    -------
    dict
        "accuracy", "temperature", "raw" and "scaled" (NLL, ECE in 15 bins of equal width, confidence −
        accuracy, of the test rows), "val accuracy", "train" (accuracy and cross-entropy on the rows where
        curvature is measured), "own" and "common" (trace and largest eigenvalue of the loss that was trained
        and of cross-entropy), "divided" (cross-entropy's trace once the last layer is divided by T).
    """
    path = folder / "curvature.json"
    if path.is_file():
        kept: Found = json.loads(path.read_text(encoding="utf-8"))
        if kept.get("version") == _VERSION:
            return kept
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _network(recipe, data, folder).to(device)
    labels = noisy(data.train.y, recipe.label_noise, data.classes, recipe.seed)
    chosen = torch.linspace(0, len(labels) - 1, min(ROWS, len(labels))).long()
    x, y = data.normalised(data.train.x[chosen].to(device)), labels[chosen].to(device)
    found: Found = {"version": _VERSION} | _judged(read_scores(folder))
    with torch.inference_mode():
        z = model(x)
    found["train"] = {
        "accuracy": float((z.argmax(1) == y).double().mean()),
        "nll": float(nn.functional.cross_entropy(z.double(), y)),
    }
    batches = list(zip(torch.split(x, 250), torch.split(y, 250), strict=True))
    loss, common = LOSSES[recipe.loss]("mean"), nn.CrossEntropyLoss()
    found["common"] = _curvature(model, common, batches, recipe.seed)
    found["own"] = found["common"] if recipe.loss == "ce" else _curvature(model, loss, batches, recipe.seed)
    divided = _divided(model, found["temperature"])
    found["divided"] = _trace(LossSurface(divided, common, batches), recipe.seed)
    with written_aside(path) as aside:
        Path(aside).write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def _network(recipe: Recipe, data: ImageData, folder: Path) -> nn.Module:
    channels, side = data.train.x.shape[1], data.train.x.shape[2]
    model = NETS[recipe.net](channels, side, data.classes)
    model.load_state_dict(torch.load(folder / "weights.pt", map_location="cpu", weights_only=True))
    return model.eval()


def _curvature(model: nn.Module, loss: nn.Module, batches: Iterable[Any], seed: int) -> dict[str, float]:
    surface = LossSurface(model, loss, batches)
    top = top_eigenvalues(surface, 1, tolerance=_TOLERANCE, seed=seed)
    return {"trace": _trace(surface, seed), "top": float(top.values[0])}


def _trace(surface: LossSurface, seed: int) -> float:
    """Return the trace of the GGN, which is the Hessian's where networks are piecewise linear."""
    return structured_trace(surface, sketches=SKETCHES, seed=seed).value


def _divided(model: nn.Module, temperature: float) -> nn.Module:
    """Return a copy whose last layer is divided by T: temperature scaling in the weights."""
    scaled = copy.deepcopy(model)
    last = [module for module in scaled.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        for tensor in last.parameters():
            tensor.div_(temperature)
    return scaled


def _judged(scores: Scores) -> Found:
    fitted = TemperatureScaling().fit(scores.val_logits, scores.val_labels)
    hit = scores.test_logits.argmax(1) == scores.test_labels
    found: Found = {
        "temperature": fitted.temperature_,
        "accuracy": float(hit.mean()),
        "val accuracy": float((scores.val_logits.argmax(1) == scores.val_labels).mean()),
    }
    for name, logits in (("raw", scores.test_logits), ("scaled", fitted.transform(scores.test_logits))):
        log_p = log_softmax(np.asarray(logits, np.float64), axis=1)
        found[name] = {
            "nll": nll(scores.test_labels, log_p, input="logits").value,
            "ece": ece(scores.test_labels, log_p, input="logits").value,
            "gap": float(np.exp(log_p.max(1)).mean() - hit.mean()),
        }
    return found


def predicted_ratio(gamma: float, noise: float, classes: int) -> float:
    r"""Return how many times cross-entropy's curvature focal loss's is, at the optimum of the population.

    For a linear network whose inputs tell the class, but whose labels were moved with probability ν to one of
    the others: there the posterior q of every row is 1 − ν and ν/(C − 1), cross-entropy's optimum is q and
    focal loss's the p of which q is the focal calibration map. The trace is that of the expected Hessian in
    the logits, times the inputs' squared length, which both share.

    Examples
    --------
    >>> predicted_ratio(0.0, 0.2, 10), round(predicted_ratio(2.0, 0.2, 10), 2)
    (1.0, 1.42)
    """
    q = np.full(classes, noise / (classes - 1))
    q[0] = 1 - noise
    own = _expected_trace(FocalLoss(gamma), np.exp(inverse_focal_map(np.log(q)[None], gamma))[0], q)
    return own / _expected_trace(nn.CrossEntropyLoss(), q, q)


def _expected_trace(loss: nn.Module, p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Return the trace of the loss's Hessian in the logits at softmax p, in expectation over labels of q."""
    logits = torch.from_numpy(np.log(p)).expand(len(p), -1)
    terms, signs = logit_hessian(loss, logits, torch.arange(len(p))).terms()
    return float(((terms.square().sum(2) * signs).sum(1) * torch.from_numpy(q)).sum())
