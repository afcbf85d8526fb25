"""What the runs of `quality.py` say: goals, tables, failures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from peers import describe_machine
from quality_results import COUNTERPARTS, Results, error_of_mean, mean, median

#: What is no family of its own, and so never the best family.
_NOT_FAMILIES = ("raw", "TS", "FTS", "ts-mix", "svs", "sms", "auto")

#: Goals for `auto`: mean log-ratio of NLL to SMS, mean ECE, log-ratio to the better of TS and SMS in small samples.
RATIO, ECE, SMALL = -0.02, 0.015, np.log(1.01)


Goal = tuple[bool | None, str]  # met, or not judged; and what was found


def over_files(values: np.ndarray) -> np.ndarray:
    return mean(values, 0)


def shown(value: float, form: str) -> str:
    return "–" if np.isnan(value) else format(value, form)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def listed(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def goals(results: Results) -> list[str]:
    """Say of each goal whether it is met."""
    found = [*quality_goals(results), small_goal(results), *time_goals(results)]
    words = {None: "Not judged", True: "Met", False: "**NOT MET**"}
    return ["## Are the goals met?", "", *(f"- {words[met]}: {text}" for met, text in found), ""]


def quality_goals(results: Results) -> list[Goal]:
    names = {
        "rank": "`auto` has the lowest mean rank in NLL",
        "ratio": f"`auto`'s mean log-ratio of NLL to `sms` is below {RATIO}",
        "ece": f"`auto`'s mean ECE is at most {ECE:.1%}",
        "TS": "`auto` is on no file worse than TS by more than two paired standard errors of the NLL",
    }
    if "auto" not in results.methods:
        return [(None, f"{text}; `auto` is not in this run.") for text in names.values()]
    failed = sum("failed" in run for run in results.runs if run["method"] == "auto" and run["size"] is None)
    lost = f" But {failed} runs of it failed." if failed else ""
    rank, lowest = results.value(results.ranks, "auto"), results.ranks.min()
    best = results.methods[int(results.ranks.argmin())]
    ratios = results.log_ratio("nll", "sms")
    ratio, error = (results.value(f(ratios), "auto") for f in (over_files, error_of_mean))
    ece = results.value(mean(results.array("ece"), (0, 1)), "auto")
    worse = results.beyond("auto", "TS")[1]
    found = [
        (rank <= lowest, f"{names['rank']}: {rank:.2f}; the lowest is {lowest:.2f} ({best}).{lost}"),
        (ratio < RATIO, f"{names['ratio']}: {ratio:+.4f} ± {error:.4f}.{lost}"),
        (ece <= ECE, f"{names['ece']}: {ece:.2%}.{lost}"),
        (not worse, f"{names['TS']}: worse on {listed(worse)}.{lost}"),
    ]
    asked = {"ratio": "sms", "TS": "TS"}
    return [
        (None, f"{text}; `{asked[name]}` is not in this run.")
        if asked.get(name, "auto") not in results.methods
        else (bool(met) and not failed, said)
        for (name, text), (met, said) in zip(names.items(), found, strict=True)
    ]


def small_goal(results: Results) -> Goal:
    """Judge every size by its mean over files, and say on how many files it is otherwise."""
    text = (
        "`auto` on small samples has on average an NLL at most 1 % above that of the better of TS and `sms`"
    )
    if not {"auto", "TS", "sms"} <= set(results.methods) or not results.sizes:
        return None, f"{text}; not in this run."
    said, met = [], True
    for size in results.sizes:
        ratio = results.column(results.small_ratio(size), "auto")[:, 0]
        failed = int(np.isnan(results.column(results.array("nll", size), "auto")).sum())
        average = float(over_files(ratio))
        above = [file for file, r in zip(results.files, ratio, strict=True) if r > SMALL]
        met = met and average <= SMALL and not failed
        lost = f", {failed} runs failed" if failed else ""
        said.append(
            f"{size:,} rows: {np.expm1(average):+.2%}, of single files above 1 % {listed(above)}{lost}"
        )
    return met, f"{text}: {'; '.join(said)}."


def time_goals(results: Results) -> list[Goal]:
    found: list[Goal] = []
    for method, (peer, limit) in COUNTERPARTS.items():
        text = f"`{method}`'s fit takes no longer than {'one fit' if limit == 1 else f'{limit} fits'} of `{peer}`"
        ratio = results.time_ratio(method)
        if method not in results.methods:
            found.append((None, f"{text}; `{method}` is not in this run."))
            continue
        slower = [f"{file} {r:.2f}" for file, r in zip(results.files, ratio, strict=True) if r > limit]
        unknown = int(np.isnan(ratio).sum())
        said = f"median ratio {median(ratio, 0):.2f}, largest {np.fmax.reduce(ratio):.2f}; slower on {listed(slower)}"
        lost = f"; {unknown} files without a time" if unknown else ""
        found.append((not slower and not unknown, f"{text}: {said}{lost}."))
    return found


def summary(results: Results) -> list[str]:
    average = over_files(results.log_ratio("nll", "sms"))
    order = np.argsort(np.where(np.isnan(average), np.inf, average), kind="stable")
    head = "method,mean rank,log-ratio of NLL to sms,ECE %,class-wise ECE %,log-ratio of Brier,"
    head += "better / worse than TS,better / worse than sms,median fit s"
    files, splits, _ = results.array("nll").shape
    rows = summary_rows(results)
    return [
        f"## 1. Every method, over {files} files and {splits} splits",
        "",
        "Log-ratios below 0 are better than `sms`; they are averaged over splits, then files, ± the standard error over "
        "files. Better / worse: on how many files the NLL differs on the fixed split by more than two paired standard "
        "errors. A failed run ranks last and is left out of the means.",
        "",
        *table(head.split(","), [rows[k] for k in order]),
    ]


def summary_rows(results: Results) -> list[list[str]]:
    ratios = results.log_ratio("nll", "sms")
    nll, error, brier = (
        over_files(ratios),
        error_of_mean(ratios),
        over_files(results.log_ratio("brier", "sms")),
    )
    ece, classwise = (100 * mean(results.array(name), (0, 1)) for name in ("ece", "classwise_ece"))
    seconds = median(results.array("seconds"), (0, 1))
    failed = np.isnan(results.array("nll")).sum(axis=(0, 1))
    rows = []
    for k, method in enumerate(results.methods):
        against = []
        for reference in ("TS", "sms"):
            better, worse = results.beyond(method, reference)
            same = method == reference or reference not in results.methods
            against.append("–" if same else f"{len(better)} / {len(worse)}")
        cells = [
            method + (f" ({failed[k]} runs failed)" if failed[k] else ""),
            f"{results.ranks[k]:.2f}",
            f"{shown(nll[k], '+.4f')} ± {shown(error[k], '.4f')}",
            shown(ece[k], ".2f"),
            shown(classwise[k], ".3f"),
            shown(brier[k], "+.4f"),
        ]
        rows.append([*cells, *against, shown(seconds[k], ".4f")])
    return rows


def by_file(results: Results) -> list[str]:
    lines = [
        "## 2. Every file, mean over the splits",
        "",
        "s.e.: the smallest of any method on the fixed split. The best family has the lowest mean NLL on the file's own "
        "test rows: it is chosen with hindsight.",
        "",
    ]
    return [*lines, *file_table(results, "nll"), *file_table(results, "ece")]


def file_table(results: Results, measure: str) -> list[str]:
    title, scale, form = {"nll": ("NLL", 1, ".4f"), "ece": ("ECE %", 100, ".2f")}[measure]
    chosen = [m for m in ("raw", "TS", "FTS", "svs", "sms", "auto") if m in results.methods]
    families = [k for k, m in enumerate(results.methods) if m not in _NOT_FAMILIES]
    values, nll = (scale_by * mean(results.array(m), 1) for m, scale_by in ((measure, scale), ("nll", 1)))
    error = scale * results.array(measure, part=1)[:, 0]
    names = {
        run["file"]: run.get("fitted", "–")
        for run in results.runs
        if run["method"] == "auto" and (run["split"], run["size"]) == (0, None)
    }
    rows = []
    for i, file in enumerate(results.files):
        cells = [shown(results.value(values[i], m), form) for m in chosen]
        if families:
            best = min(families, key=lambda k, i=i: (np.isnan(nll[i, k]), nll[i, k]))
            cells.append(f"{shown(values[i, best], form)} {results.methods[best]}")
        cells.append(shown(np.fmin.reduce(error[i]), form))
        rows.append([file, *cells, *([names[file]] if names else [])])
    head = [title, *chosen, *(["best family"] if families else []), "s.e."]
    return table([*head, *(["auto chose"] if names else [])], rows)


def differences(results: Results) -> list[str]:
    """Show paired differences of one method: `auto`, or where it did not run the best by rank."""
    ranked = [results.methods[k] for k in results.ranks.argsort()]
    subject = next(m for m in ("auto", *ranked) if m in results.methods and m != "TS")
    references = [m for m in ("TS", "sms") if m in results.methods and m != subject]
    pairs = [results.paired(subject, reference) for reference in references]
    rows = []
    for i, file in enumerate(results.files):
        cells = [
            f"{shown(scale * pair[i, j, 0], form)} ± {shown(scale * pair[i, j, 1], form[1:])}"
            for pair in pairs
            for j, (scale, form) in enumerate(((1, "+.4f"), (1, "+.4f"), (100, "+.2f")))
        ]
        rows.append([file, *cells])
    return [
        f"## 3. Paired differences of {subject} on the fixed split",
        "",
        "Mean over test rows ± its standard error, below 0 where it is better (rows of one question count as dependent). "
        "That of the ECE takes the signs of the bins' gaps as given.",
        "",
        *table(["", *(f"{m} − {r}'s" for r in references for m in ("NLL", "Brier", "ECE %"))], rows),
    ]


def small_samples(results: Results) -> list[str]:
    if not results.sizes:
        return []
    ratios = {size: results.small_ratio(size) for size in results.sizes}
    rows = []
    for k, method in enumerate(results.methods):
        cells = [method]
        for size, ratio in ratios.items():
            failed = int(np.isnan(results.array("nll", size)[:, :, k]).sum())
            worst = int(np.argmax(np.nan_to_num(ratio[:, k], nan=-np.inf)))
            error = error_of_mean(ratio)[k]
            cells.append(f"{shown(over_files(ratio)[k], '+.4f')} ± {shown(error, '.4f')}")
            lost = f", {failed} runs failed" if failed else ""
            cells.append(f"{shown(ratio[worst, k], '+.4f')} {results.files[worst]}{lost}")
        rows.append(cells)
    head = ["method", *(text for size in results.sizes for text in (f"{size:,} rows", "worst file"))]
    return [
        "## 4. Small samples",
        "",
        "Log-ratio of NLL to the better of TS and `sms` on each file and size, all averaged over the draws of fitting rows "
        "and judged on the fixed split's test rows; mean over files ± its standard error.",
        "",
        *table(head, rows),
    ]


def times(results: Results) -> list[str]:
    timed = [m for m in results.methods if m != "raw"]
    seconds = median(results.array("seconds"), 1)
    compared = {m: results.time_ratio(m) for m in timed if m in COUNTERPARTS}
    rows = []
    for i, file in enumerate(results.files):
        cells = [shown(results.value(seconds[i], m), ".4f") for m in timed]
        rows.append([file, *cells, *(shown(ratio[i], ".2f") for ratio in compared.values())])
    return [
        "## 5. Fit times",
        "",
        "CPU seconds with one thread, median over the splits; ratios are of fits on the same rows, one soon after the other.",
        "",
        *table(["", *timed, *(f"{m} ÷ {COUNTERPARTS[m][0]}" for m in compared)], rows),
    ]


def failures(results: Results) -> list[str]:
    said = [
        f"- {r['method']}, {r['file']}, split {r['split']}, {r['size'] or r['n_fit']} rows, draw {r['draw']}: {r['failed']}"
        for r in results.runs
        if "failed" in r
    ]
    return ["## Runs that failed", "", *(said or ["None."]), ""]


def report(runs: list[dict], folder: Path) -> str:
    """Return the whole page; rows' losses of the fixed split are read from the folder."""
    results = Results(runs, folder)
    head = [
        "# Post-hoc calibrators on real score files",
        "",
        f"{describe_machine(('focalcal', 'numpy', 'scipy', 'probmetrics', 'torch'))}.",
        "",
        "`TS` and `FTS` are focalcal's temperature and focal temperature scaling, `auto` its `fit_best`; `ts-mix`, `svs` and "
        "`sms` are probmetrics', given softmax probabilities in float64, of which those below 1e-30 are judged as 1e-30. "
        "Defaults everywhere; methods are fitted on half of each file and judged on the other, the file's own split "
        "first. ECE: 15 equal-width bins, top label. Brier: summed over classes.",
        "",
    ]
    parts = (goals, summary, by_file, differences, small_samples, times, failures)
    return "\n".join([*head, *(line for part in parts for line in part(results))]).rstrip() + "\n"
