"""The whole job on a network small enough to train on the spot: what `focalcal demo` shows."""

from __future__ import annotations

import importlib.util
import os
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Few enough that the network learns every one of them by heart, and is sure of itself ever after.
_TRAINING_ROWS = 150
_VALIDATION_ROWS = 800
_SIZES = (64, 64, 64, 10)


def train(
    X: NDArray[Any], y: NDArray[Any], *, steps: int = 300, rate: float = 0.02, seed: int = 0
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Train a perceptron with two hidden layers by cross-entropy and Adam, without any regularisation.

    Parameters
    ----------
    X : ndarray of shape (n, 64)
    y : ndarray of shape (n,)
        Digits 0..9.
    steps : int
        Full-batch steps.
    rate : float
        Adam's step size.
    seed : int
        Of the initial weights.

    Returns
    -------
    list of (weights, bias)
        One pair a layer, for `logits_of`.
    """
    rng = np.random.default_rng(seed)
    shapes = list(pairwise(_SIZES))
    parameters = [rng.normal(0, np.sqrt(2 / shape[0]), shape) for shape in shapes]
    parameters += [np.zeros(width) for _, width in shapes]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    for step in range(1, steps + 1):
        for p, g, m, v in zip(parameters, _gradient(parameters, X, y), first, second):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return list(zip(parameters[:3], parameters[3:]))


def _gradient(parameters: list[NDArray[Any]], X: NDArray[Any], y: NDArray[Any]) -> list[NDArray[Any]]:
    weights, biases = parameters[:3], parameters[3:]
    layers = [X]
    for W, b in zip(weights[:-1], biases[:-1]):
        layers.append(np.maximum(layers[-1] @ W + b, 0))
    z = layers[-1] @ weights[-1] + biases[-1]
    p = np.exp(z - z.max(axis=1, keepdims=True))
    delta = (p / p.sum(axis=1, keepdims=True) - np.eye(10)[y]) / len(y)  # (n, 10)
    of_weights: list[NDArray[Any]] = []
    of_biases: list[NDArray[Any]] = []
    for W, layer in zip(reversed(weights), reversed(layers)):
        of_weights.insert(0, layer.T @ delta)
        of_biases.insert(0, delta.sum(axis=0))
        delta = (delta @ W.T) * (layer > 0)
    return of_weights + of_biases


def logits_of(network: list[tuple[NDArray[Any], NDArray[Any]]], X: NDArray[Any]) -> NDArray[np.float32]:
    """Return the logits, shape (n, 10), of a network of `train`."""
    for W, b in network[:-1]:
        X = np.maximum(X @ W + b, 0)
    W, b = network[-1]
    z: NDArray[np.float32] = (X @ W + b).astype(np.float32)
    return z


def write_tables(folder: str | os.PathLike[str], *, seed: int = 0) -> tuple[str, str]:
    """Train on some digits and write the predictions for the others, as a user's own data would look.

    Parameters
    ----------
    folder : str or path
        Where to write.
    seed : int
        Of the split and of the training.

    Returns
    -------
    tuple of str
        Paths of the validation and the test table: columns image, label, logit_0 … logit_9 in parquet,
        or without the extra [data] the arrays image, labels and logits in npz.
    """
    from sklearn.datasets import load_digits
    from threadpoolctl import threadpool_limits

    X, y = load_digits(return_X_y=True)
    X = X / 16
    order = np.random.default_rng(seed).permutation(len(y))
    rows = np.split(order, [_TRAINING_ROWS, _TRAINING_ROWS + _VALIDATION_ROWS])
    with threadpool_limits(1):  # matrices this small only wait for each other in threads
        network = train(X[rows[0]], y[rows[0]], seed=seed)
    val, test = (
        _write(Path(folder, name), part, y[part], logits_of(network, X[part]))
        for name, part in (("val", rows[1]), ("test", rows[2]))
    )
    return val, test


def _write(path: Path, image: NDArray[Any], label: NDArray[Any], logits: NDArray[Any]) -> str:
    if not _is_installed("duckdb", "pyarrow"):
        np.savez(path.with_suffix(".npz"), image=image, labels=label, logits=logits)
        return str(path.with_suffix(".npz"))
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {f"logit_{j}": logits[:, j] for j in range(logits.shape[1])}
    pq.write_table(pa.table({"image": image, "label": label, **columns}), path.with_suffix(".parquet"))
    return str(path.with_suffix(".parquet"))


def _is_installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def commands(folder: str, val: str, test: str) -> list[list[str]]:
    """Return the commands that the demo runs, as a user would type them."""
    columns = ["--logits", "logit_*", "--label", "label"] if val.endswith(".parquet") else []
    calibrator, ending = os.path.join(folder, "cal.json"), os.path.splitext(test)[1]
    calibrated = os.path.join(folder, f"calibrated{ending}")
    steps = [
        ["fit", val, *columns, "-o", calibrator],
        ["apply", calibrator, test, *columns[:2], "-o", calibrated],
        ["evaluate", test, *columns, "--calibrator", calibrator],
    ]
    if _is_installed("jinja2"):
        page = os.path.join(folder, "report.html")
        steps.append(["report", test, *columns, "--calibrator", calibrator, "-o", page])
    return steps


def show(folder: str | os.PathLike[str], *, seed: int = 0) -> None:
    """Run the demo in a folder, which is made if needed, and show each command with its result.

    Parameters
    ----------
    folder : str or path
        Where to write the tables, the calibrator and the report.
    seed : int
        Of the split and of the training.
    """
    from focalcal.cli import app, console

    folder = os.fspath(folder)
    os.makedirs(folder, exist_ok=True)
    with console.Progress("Training a network on handwritten digits"):
        val, test = write_tables(folder, seed=seed)
    console.show_lines(
        f"Trained a network on only {_TRAINING_ROWS} of scikit-learn's 1,797 handwritten digits: it is surer",
        f"of itself than it should be. Its logits for the other digits are in {val} and {test}.",
    )
    steps = commands(folder, val, test)
    for step in steps:
        console.show_lines("", f"$ {shlex.join(['focalcal', *step])}")
        app(step, prog_name="focalcal", standalone_mode=False)
    if steps[-1][0] == "report":
        console.show_lines("", f"The report: {os.path.abspath(steps[-1][-1])}")
    else:
        console.show_lines("", "For a report with diagrams: pip install 'focalcal[plot]'")
