"""The study on scores that others made: one network each, so that its intervals come from the rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from focalcal.experiments.over_seeds import OverSeeds, over_seeds
from focalcal.experiments.scaling.claims import CLAIMED, PAIRS, Claim
from focalcal.experiments.scaling.study import Scores, fitted, judged, kept
from focalcal.reporting.names import shown
from focalcal.verdicts.comparison import compare

#: Measures of `CLAIMED` as `compare` names them; its calibration errors have bins of equal width.
_NAMES = dict(zip(CLAIMED, ("nll", "brier", "ece", "classwise_ece"), strict=True))


def read_stand_in(path: str | os.PathLike[str]) -> Scores:
    """Return the scores of a file, parted by its mask.

    Parameters
    ----------
    path : str or path-like
        An .npz file with "logits" or "probs" (n, K), "labels" (n,) as column numbers and "val_mask" (n,):
        true where calibrators are fitted. The logarithms of probabilities are taken for logits.

    Raises
    ------
    ValueError
        If an array is missing, or their shapes do not fit.
    """
    with np.load(path, allow_pickle=False) as file:
        held = {name: file[name] for name in ("logits", "probs", "labels", "val_mask") if name in file}
    if not {"labels", "val_mask"} <= held.keys() or len(held) < 3:
        raise ValueError(
            f"Expected arrays logits or probs, labels, val_mask in {path}, got {', '.join(held) or 'none'}."
            " Save them with numpy.savez."
        )
    z = held["logits"] if "logits" in held else np.log(np.maximum(held["probs"], 1e-30))
    mask, labels = held["val_mask"].astype(bool), held["labels"].astype(np.int64)
    if z.ndim != 2 or not len(z) == len(mask) == len(labels) or mask.all() or not mask.any():
        shapes = ", ".join(f"{name} {array.shape}" for name, array in held.items())
        raise ValueError(
            f"Expected scores (n, K), n labels and n entries of val_mask, not all the same, in {path}, got "
            f"{shapes}. Mark the rows to fit calibrators on in val_mask."
        )
    z = z.astype(np.float32)
    return Scores(z[mask], labels[mask], z[~mask], labels[~mask])


def study_stand_in(folder: Path, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Judge the methods on a file's scores, once: a file of its own in a folder keeps the answer.

    Parameters
    ----------
    folder : Path
        Gets "stand-in-….json", named by the content of the scores.
    path : str or path-like
        As of `read_stand_in`.

    Returns
    -------
    dict
        As of `judged`, and "differences": for each pair and measure [value, low, high], the paired 95 %
        interval of `focalcal.compare`.
    """
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]

    def find() -> dict[str, Any]:
        scores = read_stand_in(path)
        fits = fitted(scores)
        differences = {}
        for method, rival in PAIRS:
            if method in fits and rival in fits:
                pair = fits[rival][1], fits[method][1]
                found = compare(scores.test_labels, *pair, input="logits")
                each = {metric: found[name].difference for metric, name in _NAMES.items()}
                differences[f"{method} − {rival}"] = {m: [d.value, d.low, d.high] for m, d in each.items()}
        return judged(scores, fits) | {"differences": differences}

    return kept(folder / f"stand-in-{digest}.json", find)


def study_stand_ins(
    folder: Path, paths: Sequence[str | os.PathLike[str]], *, executor: Executor | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """Return each file's name and study, as `study_stand_in` does; with an executor several at once."""
    task = partial(study_stand_in, folder)
    each = map(task, paths) if executor is None else executor.map(task, paths)
    return [(shown(Path(path).stem), found) for path, found in zip(paths, each, strict=True)]


def stand_in_claims(found: Sequence[tuple[str, dict[str, Any]]]) -> list[Claim]:
    """Return the comparisons of `PAIRS` over files; what they have pooled is the mean over files.

    Parameters
    ----------
    found : sequence of (str, dict)
        As of `study_stand_ins`.
    """
    made = []
    for method, rival in PAIRS:
        name = f"{method} − {rival}"
        if not all(name in one["differences"] for _, one in found):
            continue
        for metric in CLAIMED:
            cells = []
            for file, one in found:
                value, low, high = one["differences"][name][metric]
                cells.append((("", "", file), OverSeeds(value, low, high, one["rows"]["test"])))
            pooled = over_seeds(one.value for _, one in cells)
            made.append(Claim(method, rival, metric, cells, pooled))
    return made
