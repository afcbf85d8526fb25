"""Run other libraries on small inputs and keep what they return in ``frozen.json``.

They are too heavy to be installed with the tests; the numbers are not. To make them anew, in an environment
of its own (NumPy and SciPy come with them):

    pip install relplot==1.0.3 netcal==1.4.0 uncertainty-calibration==0.1.4 model-diagnostics==1.5.0 \
        torchmetrics==1.9.0 torch==2.13.0
    pip install --no-deps torch-uncertainty==0.13.0
    python tests/oracles/freeze.py

Inputs are closed formulas, so that they are the same wherever they are made.
"""

import importlib.metadata
import importlib.util
import json
from pathlib import Path

import numpy as np
from scipy.special import ndtri, softmax

FILE = Path(__file__).with_name("frozen.json")
LIBRARIES = (
    "relplot",
    "netcal",
    "uncertainty-calibration",
    "model-diagnostics",
    "torch-uncertainty",
    "torchmetrics",
)

#: Sizes of the inputs; 600 is a multiple of the 15 bins, 500 is not.
SIZES = (50, 500, 600, 3000)
CLASSES = (2, 3, 10)

#: Confidence and true hit rate at a quantile u in (0, 1).
SHAPES = {
    "uniform": (lambda u: u, lambda c: c**1.4),
    "calibrated": (lambda u: 0.05 + 0.9 * u, lambda c: c),
    "confident": (lambda u: 1 - 0.5 * u**3, lambda c: 0.5 + 0.6 * (c - 0.5)),
    "one-sided": (lambda u: 0.6 + 0.35 * u, lambda c: c - 0.25),
    "wiggling": (lambda u: 0.1 + 0.8 * u, lambda c: c + 0.1 * np.sin(20 * c)),
    "tied": (lambda u: np.round(9 * u) / 10 + 0.03, lambda c: c**2),
    "crowded": (lambda u: 1 - 1e-9 * u, lambda c: 0.9 * c),
}


def spread(n, irrational):
    """Return n numbers spread evenly over (0, 1): the fractional parts of multiples."""
    return np.mod(np.arange(1, n + 1) * irrational, 1)


def events(shape, n):
    """Return confidences (n,) and hits (n,)."""
    confidence, rate = SHAPES[shape]
    c = confidence(spread(n, np.sqrt(2)))
    return c, (spread(n, np.sqrt(3)) < rate(c)).astype(np.int64)


def predictions(n, k, temperature=1.6):
    """Return probabilities (n, K) of an over-confident model, and labels (n,)."""
    roots = np.sqrt([2, 3, 5, 7, 11, 13, 17, 19, 23, 29])
    z = 1.8 * np.stack([ndtri(spread(n, root)) for root in roots[:k]], axis=1)
    truth = softmax(z / temperature, axis=1)
    y = (spread(n, np.sqrt(31))[:, None] > truth.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return softmax(z, axis=1), y


def weights(n):
    """Return weights (n,) between 0.2 and 3.2."""
    return 0.2 + 3 * spread(n, np.sqrt(37)) ** 2


def of_relplot(c, y):
    from relplot.metrics import smECE

    return {"smooth": float(smECE(c, y.astype(float)))}


def of_netcal(p, y):
    from netcal.metrics import ACE, ECE, MCE

    found = {"ece": ECE(15), "mce": MCE(15), "ace": ACE(15)}
    # it cannot cut equal confidences into bins of equal mass
    if p.ndim == 2 or len(np.unique(p)) > 15:
        found["ece_equal_mass"] = ECE(15, equal_intervals=False)
    return {name: float(metric.measure(p, y)) for name, metric in found.items()}


def of_uncertainty_calibration(p, y):
    from calibration import utils

    def error(power, debias, scheme, mode):
        return float(
            utils.lower_bound_scaling_ce(
                p, y, p=power, debias=debias, num_bins=15, binning_scheme=scheme, mode=mode
            )
        )

    width, mass = utils.get_equal_prob_bins, utils.get_equal_bins
    found = {}
    for mode in ("top-label", "marginal") if p.ndim == 2 else ("marginal",):
        found |= {
            f"{mode}-l1": error(1, False, width, mode),
            f"{mode}-l2": error(2, False, width, mode),
            f"{mode}-l2-debiased": error(2, True, width, mode),
            f"{mode}-l1-equal-mass": error(1, False, mass, mode),
            f"{mode}-l2-equal-mass-debiased": error(2, True, mass, mode),
        }
        np.random.seed(0)  # noqa: NPY002  (the library draws from the global generator)
        if p.ndim == 1 and len(p) >= 500:  # more than one row a bin
            found[f"{mode}-l1-equal-mass-debiased"] = error(1, True, mass, mode)
    return found


def of_model_diagnostics(c, y, weight):
    from model_diagnostics.scoring import LogLoss, SquaredError, decompose

    found = {}
    for name, score in (("brier", SquaredError()), ("nll", LogLoss())):
        for key, w in ((name, None), (f"{name}-weighted", weight)):
            table = decompose(y_obs=y, y_pred=c, weights=w, scoring_function=score)
            found[key] = {column: float(table[column][0]) for column in table.columns}
    return found


def of_torch_uncertainty(p, y):
    import torch

    # the file alone: the package itself asks for torchvision and more
    package = Path(importlib.util.find_spec("torch_uncertainty").submodule_search_locations[0])
    path = package / "metrics" / "classification" / "risk_coverage.py"
    spec = importlib.util.spec_from_file_location("risk_coverage", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.AURC()
    found.update(torch.from_numpy(p), torch.from_numpy(y))
    return float(found.compute())


def freeze():
    """Run every library and return what it found."""
    found = {"versions": {name: importlib.metadata.version(name) for name in LIBRARIES}}
    for shape in SHAPES:
        for n in SIZES:
            c, y = events(shape, n)
            here = {"relplot": of_relplot(c, y)}
            here["uncertainty-calibration"] = of_uncertainty_calibration(c, y)
            here["netcal"] = of_netcal(c, y)
            here["model-diagnostics"] = of_model_diagnostics(c, y, weights(n))
            found[f"{shape} {n}"] = here
    for k in CLASSES:
        for n in SIZES:
            p, y = predictions(n, k)
            here = {"netcal": of_netcal(p, y), "torch-uncertainty": of_torch_uncertainty(p, y)}
            here["uncertainty-calibration"] = of_uncertainty_calibration(p, y)
            found[f"{k} classes {n}"] = here
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(freeze(), indent=1) + "\n")
