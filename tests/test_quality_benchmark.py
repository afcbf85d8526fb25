"""The benchmark of all calibrators: its splits, tables and goals, against a plain recomputation in NumPy."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from cases import drawn
from focalcal import FocalTemperatureScaling, TemperatureScaling

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
METHODS = ["TS", "FTS", "sms"]
SIZE = 60

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not installed")


def made_files():
    """A file of logits of independent rows, and one of probabilities of 4 prompts of each of 80 questions."""
    z, y = drawn(400, 3, 2.0, seed=1)
    first = {"logits": (3 * z).astype(np.float32), "labels": y, "val_mask": np.arange(400) % 2 == 0}
    z, y = drawn(80, 4, 1.0, seed=2)
    rng = np.random.default_rng(3)
    z = (
        np.tile(z, (4, 1)) + rng.normal(size=(320, 4)) / 2
    )  # rows in the order of prompts, as in the real file
    p = np.exp(2 * z) / np.exp(2 * z).sum(axis=1, keepdims=True)
    question, prompt = np.tile(np.arange(80), 4), np.repeat(np.arange(4), 80)
    second = {"probs": p, "labels": np.tile(y, 4), "val_mask": question % 2 == 0}
    second |= {"subject": question // 50, "prompt": prompt}
    return {"first": first, "second": second}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Folder, and what the script printed when it was run twice."""
    pytest.importorskip("probmetrics", reason="pip install probmetrics")
    folder = tmp_path_factory.mktemp("quality")
    for name, content in made_files().items():
        np.savez(folder / f"{name}.npz", **content)
    np.savez(folder / "other.npz", images=np.zeros(3))
    command = [
        sys.executable,
        "-P",
        BENCHMARKS / "quality.py",
        "--data",
        folder,
        "--methods",
        ",".join(METHODS),
    ]
    command += ["--splits", "2", "--sizes", str(SIZE), "--cache", folder / "runs.jsonl"]
    printed = []
    for more in ([], ["--write", folder / "quality.md"]):
        done = subprocess.run(
            [*map(str, command), *map(str, more)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        printed.append((done.stdout, done.stderr))
    return folder, printed


def row_nll(content, method, fitting, test):
    """Fit a method by hand and return the losses of the rows to judge."""
    kind = "logits" if "logits" in content else "probs"
    scores, labels = content[kind], content["labels"]
    if method == "sms":
        from probmetrics.calibrators import get_calibrator

        if kind == "logits":
            wide = scores.astype(np.float64)
            scores = np.exp(wide - wide.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
        fitted = get_calibrator("sms").fit(scores[fitting], labels[fitting])
        log_p = np.log(fitted.predict_proba(scores[test]))
    else:
        family = TemperatureScaling if method == "TS" else FocalTemperatureScaling
        log_p = family(input=kind).fit(scores[fitting], labels[fitting]).transform(scores[test])
    return -log_p[np.arange(len(test)), labels[test]].astype(np.float64)


def by_hand():
    """Rows' NLL by file, split (0, 1 and "small" draws) and method, with the numbers of the judged rows."""
    out = {}
    for name, content in made_files().items():
        fixed, n = content["val_mask"], len(content["labels"])
        group = np.tile(np.arange(80), 4) if "prompt" in content else np.arange(n)
        few = np.random.default_rng(1).permutation(group.max() + 1)[: (group.max() + 1) // 2]
        cells = {0: fixed, 1: np.isin(group, few)}
        cells = {split: (np.flatnonzero(mask), np.flatnonzero(~mask)) for split, mask in cells.items()}
        for draw in range(3):
            rows = np.random.default_rng([SIZE, draw]).choice(cells[0][0], SIZE, replace=False)
            cells["small", draw] = (rows, cells[0][1])
        for cell, (fitting, test) in cells.items():
            for method in METHODS:
                out[name, cell, method] = row_nll(content, method, fitting, test)
    return out


@pytest.fixture(scope="module")
def truth(found):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # probmetrics' and those of the fits
        return by_hand()


def table_rows(text, heading):
    """The rows of the first table below a heading, by their first cell."""
    lines = iter(text[text.index(heading) :].splitlines())
    rows = {}
    for line in lines:
        if line.startswith("| "):
            first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rows[first] = cells
        elif rows:
            break
    return rows


def test_ranks_and_ratios_are_those_of_a_plain_recomputation(found, truth):
    rows = table_rows(found[1][0][0], "## 1.")
    files = list(made_files())
    nll = {key: losses.mean() for key, losses in truth.items()}
    ranks = {
        method: np.mean(
            [sum(nll[f, s, other] <= nll[f, s, method] for other in METHODS) for f in files for s in (0, 1)]
        )
        for method in METHODS
    }
    for method in METHODS:
        ratio = [np.mean([np.log(nll[f, s, method] / nll[f, s, "sms"]) for s in (0, 1)]) for f in files]
        error = abs(ratio[0] - ratio[1]) / 2  # the standard error of a mean of two
        assert rows[method][:2] == [f"{ranks[method]:.2f}", f"{np.mean(ratio):+.4f} ± {error:.4f}"]
    order = [method for method in rows if method in METHODS]
    assert order == sorted(
        METHODS,
        key=lambda m: np.mean([np.log(nll[f, s, m] / nll[f, s, "sms"]) for f in files for s in (0, 1)]),
    )


def test_small_samples_are_measured_by_the_better_of_two(found, truth):
    rows = table_rows(found[1][0][0], "## 4.")
    for method in METHODS:
        ratio = {}
        for file in made_files():
            logs = {
                m: np.mean([np.log(truth[file, ("small", draw), m].mean()) for draw in range(3)])
                for m in METHODS
            }
            ratio[file] = logs[method] - min(logs["TS"], logs["sms"])
        worst = max(ratio, key=ratio.get)
        assert rows[method][0].split(" ± ")[0] == f"{np.mean(list(ratio.values())):+.4f}"
        assert rows[method][1] == f"{ratio[worst]:+.4f} {worst}"


def test_paired_errors_count_a_questions_rows_as_dependent(found, truth, monkeypatch):
    folder, _ = found
    results = read(folder, monkeypatch)
    change, error = results.paired("FTS", "TS")[:, 0].T
    for i, file in enumerate(made_files()):
        gain = truth[file, 0, "FTS"] - truth[file, 0, "TS"]
        assert change[i] == pytest.approx(gain.mean(), rel=1e-4, abs=1e-8)
        if file == "second":
            gain = gain.reshape(4, 40).mean(axis=0)  # one value a question
        assert error[i] == pytest.approx(gain.std(ddof=1) / np.sqrt(len(gain)), rel=1e-4)


def test_a_row_s_share_of_the_ece_adds_up_to_it(found, monkeypatch):
    folder, _ = found
    results = read(folder, monkeypatch)
    ece = results.array("ece")[:, 0]
    for i, file in enumerate(made_files()):
        for k, method in enumerate(METHODS):
            shares = np.load(folder / "runs.jsonl.rows" / f"{file}.{method}.npy")[2]
            assert shares.mean() == pytest.approx(ece[i, k], rel=1e-5)


def test_what_is_done_is_not_done_again(found):
    folder, ((first, progress), (second, nothing)) = found
    assert progress.count(" split ") == 2 * (2 + 3)
    assert nothing == ""
    assert first.splitlines()[3:] == second.splitlines()[3:]  # the third tells the machine's load
    assert (folder / "quality.md").read_text() == second.rstrip("\n") + "\n"
    assert len((folder / "runs.jsonl").read_text().splitlines()) == 2 * (2 + 3) * len(METHODS)


def runs_of(folder):
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def read(folder, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from quality_results import Results

    return Results(runs_of(folder), folder / "runs.jsonl.rows")


def told(folder, monkeypatch, runs):
    """The page about runs in which FTS is taken for `auto`."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from quality_tables import report

    rows = folder / "runs.jsonl.rows"
    for file in made_files():
        (rows / f"{file}.auto.npy").write_bytes((rows / f"{file}.FTS.npy").read_bytes())
    for run in runs:
        if run["method"] == "FTS":
            run["method"] = "auto"
            run["counterpart"] = run["seconds"] / (4 if run["file"] == "first" else 6)
    return report(runs, rows)


def test_goals_that_are_not_met_are_said(found, monkeypatch):
    runs = runs_of(found[0])
    for run in runs:
        if run["method"] == "FTS":
            factor = 1.1 if run["size"] else 0.9
            run["nll"] = [factor * value for value in run["nll"]]
    text = told(found[0], monkeypatch, runs)
    assert (
        "- **NOT MET**: `auto`'s fit takes no longer than 5 fits of `sms`: median ratio 5.00, largest 6.00"
        in text
    )
    assert "slower on 1 (second 6.00)" in text
    assert "- Met: `auto` has the lowest mean rank in NLL" in text
    assert "- Met: `auto`'s mean log-ratio of NLL to `sms`" in text
    assert "- **NOT MET**: `auto`'s mean ECE is at most 1.5%" in text
    assert "- **NOT MET**: `auto` on small samples" in text
    assert "- Not judged: `StructuredMatrixScaling`" in text


def test_a_method_that_fails_is_shown_and_meets_no_goal(found, monkeypatch):
    runs = runs_of(found[0])
    run = next(run for run in runs if (run["method"], run["size"]) == ("FTS", None))
    for name in ("nll", "brier", "ece", "classwise_ece", "accuracy"):
        del run[name]
    run["failed"] = "ValueError: Expected more."
    text = told(found[0], monkeypatch, runs)
    assert "- auto, first, split 0, 200 rows, draw 0: ValueError: Expected more." in text
    assert "auto (1 runs failed)" in text
    assert "Met: `auto` has" not in text
    assert text.count("But 1 runs of it failed.") == 4
