"""Does focal temperature scaling beat temperature scaling? What each method does to the scores of a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from focalcal.experiments.recipes import Recipe, from_dict
from focalcal.experiments.scaling.methods import METHODS, METRICS, Array, Fit, Labels, Logits
from focalcal.experiments.sweep import Sweep
from focalcal.io.files import written_aside

#: Changes with what the methods or measures of a name do; kept results of another one are found anew.
VERSION = 1


class Scores(NamedTuple):
    """What a run left: logits (n, K) and labels (n,) of validation and test images."""

    val_logits: Logits
    val_labels: Labels
    test_logits: Logits
    test_labels: Labels


def read_scores(folder: Path) -> Scores:
    """Return the scores of a finished run."""
    with np.load(folder / "scores.npz", allow_pickle=False) as file:
        return Scores(*(file[name] for name in Scores._fields))


def fitted(scores: Scores, methods: Sequence[str] = tuple(METHODS)) -> dict[str, tuple[Fit, Array]]:
    """Return what each method finds on the validation rows, and its log-probabilities of the test rows."""
    found: dict[str, tuple[Fit, Array]] = {}
    for name in methods:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that γ ends at a bound is a result here: its value tells
            fits = METHODS[name](scores.val_logits, scores.val_labels)
            named = {name: fits} if isinstance(fits, Fit) else fits
            found |= {one: (fit, fit.map(scores.test_logits)) for one, fit in named.items()}
    return found


def judged(scores: Scores, fits: Mapping[str, tuple[Fit, Array]]) -> dict[str, Any]:
    """Return each method's measures on the test rows, and the parameters it found.

    Parameters
    ----------
    scores : Scores
    fits : dict
        As of `fitted`.

    Returns
    -------
    dict
        "rows" of validation and test, "classes", "accuracy" of the scores as they are, and "found": for each
        method "metrics", by the names of `METRICS`, and "parameters".
    """
    found = {}
    for name, (fit, log_probs) in fits.items():
        metrics = {metric: of(scores.test_labels, log_probs) for metric, of in METRICS.items()}
        found[name] = {"metrics": metrics, "parameters": dict(fit.parameters)}
    return {
        "rows": {"validation": len(scores.val_labels), "test": len(scores.test_labels)},
        "classes": scores.test_logits.shape[1],
        "accuracy": float((scores.test_logits.argmax(1) == scores.test_labels).mean()),
        "found": found,
    }


def kept(path: Path, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a file keeps, or find and keep it where the version, methods or measures are others."""
    head = {"version": VERSION, "methods": list(METHODS), "measures": list(METRICS)}
    if path.is_file():
        held = json.loads(path.read_text(encoding="utf-8"))
        if {name: held.get(name) for name in head} == head:
            return dict(held)
    told = head | find()
    with written_aside(path) as aside:
        Path(aside).write_text(json.dumps(told, indent=1), encoding="utf-8")
    return told


def study(folder: Path) -> dict[str, Any]:
    """Judge the methods on the scores of a finished run, once: "fts.json" in its folder keeps the answer.

    Parameters
    ----------
    folder : Path
        Of `train`: holds "scores.npz" and "run.json".

    Returns
    -------
    dict
        As of `judged`, and "run", as run.json has it.
    """

    def find() -> dict[str, Any]:
        scores = read_scores(folder)
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return {"run": run} | judged(scores, fitted(scores))

    return kept(folder / "fts.json", find)


def study_sweep(
    folder: Path,
    *,
    among: Collection[Recipe] | None = None,
    executor: Executor | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[tuple[Recipe, dict[str, Any]]]:
    """Return the study of every finished run of a sweep, or of those among some, in the order of its list.

    Parameters
    ----------
    folder : Path
        Of the `Sweep`.
    executor : concurrent.futures.Executor, optional
        Where the runs are judged. Default: here, one after the other.
    progress : callable, optional
        Told (key, runs judged, runs).
    """
    done = Sweep(folder).done(among)
    folders = [place for _, place in done]
    each = map(study, folders) if executor is None else executor.map(study, folders)
    found = []
    for i, one in enumerate(each, 1):
        found.append((from_dict(one["run"]["recipe"]), one))
        if progress is not None:
            progress(folders[i - 1].name, i, len(folders))
    return found
