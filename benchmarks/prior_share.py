"""How much of the uniform distribution `fit_best` should mix in, where few rows cannot have shown every kind of error.

    python -P benchmarks/prior_share.py [--data ../shared/data] [--draws 6] [--write benchmarks/results/prior_share.md]

Files as in benchmarks/quality.py; 100, 300 and 1,000 of the fixed split's fitting rows. The share is c/(n + 1); c is 1/4 in
the library, and c = 0 (1e-30 here) is temperature scaling and focal matrix scaling as they are.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np

import focalcal
from focalcal.calibrators.held_out import HeldOut

sys.path.insert(0, str(Path(__file__).parent))
from quality import Cell, load, rows_of, score_files
from quality_tables import table

SIZES, COUNTS = (100, 300, 1000), (1e-30, 0.05, 0.1, 0.25, 0.5, 1.0)
OURS = COUNTS.index(0.25)


def judged(cell: Cell, count: float) -> float:
    """Return the NLL on the rows that were not fitted on, of `fit_best` with a share count/(n + 1)."""
    file = load(cell.path)
    chosen, rest = rows_of(cell, file)
    share = property(lambda held: count / (held.n_effective + 1))
    with patch.object(HeldOut, "prior_share", share), warnings.catch_warnings():
        warnings.simplefilter("ignore", focalcal.CalibrationWarning)
        cal = focalcal.fit_best(file.scores[chosen], file.labels[chosen], input=file.kind)
    return focalcal.nll(file.labels[rest], cal.transform(file.scores[rest]), input="logits").value


def lines_of(found: np.ndarray) -> list[str]:
    """Return the table of NLLs (file, size, draw, count)."""
    ratio = 100 * np.log(found / found[..., OURS, None])
    rows = []
    for k, count in enumerate(COUNTS):
        cells = ["0" if count < 1e-9 else f"{count:g}"]
        for i in range(len(SIZES)):
            by_file = ratio[:, i, :, k].mean(axis=1)
            error = by_file.std(ddof=1) / np.sqrt(len(by_file))
            cells += [f"{by_file.mean():+.2f} ± {error:.2f}", f"{ratio[:, i, :, k].max():+.1f}"]
        rows.append(cells)
    head = ["c", *(text for size in SIZES for text in (f"{size} rows", "largest"))]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--files")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    paths = score_files(options.data, options.files)
    found = np.empty((len(paths), len(SIZES), options.draws, len(COUNTS)))
    for i, path in enumerate(paths):
        for at in np.ndindex(found.shape[1:]):
            found[(i, *at)] = judged(Cell(str(path), 0, SIZES[at[0]], at[1]), COUNTS[at[2]])
        print(path.stem, np.round(found[i].mean(axis=1), 4).tolist(), file=sys.stderr, flush=True)
    head = [
        "# How much of the uniform distribution, with few rows",
        "",
        f"`python -P benchmarks/prior_share.py --draws {options.draws}`: `fit_best` on {len(paths)} files, "
        f"{options.draws} draws of each size. Differences of log NLL to c = 1/4 in per cent (mean over files ± standard "
        "error, and that of the worst draw), above 0 is worse.",
        "",
    ]
    text = "\n".join([*head, *lines_of(found)]) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
