"""What the command line shows: tables for people, one JSON document for machines."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import focalcal


def show_json(command: str, document: Mapping[str, Any]) -> None:
    """Write one JSON document to standard output; numbers that are not finite become null."""
    whole = {"focalcal": focalcal.__version__, "command": command, **document}
    sys.stdout.write(json.dumps(_plain(whole), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_lines(*lines: str) -> None:
    """Write plain lines that a terminal may wrap, but that stay whole when copied."""
    console = _console()
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_notes(notes: Sequence[str]) -> None:
    """Write what needs to be known, one line each."""
    for note in notes:
        _console().print("[yellow]note:[/] ", end="")
        show_lines(note)


def show_fit(calibrator: Any, description: str) -> None:
    """Write the fitted parameters with their standard errors; of tables of numbers, the size."""
    from focalcal.calibrators import artefact

    words = re.sub("(?<=[a-z])(?=[A-Z])", " ", type(calibrator).__name__).capitalize()
    criterion = calibrator.diagnostics_.criterion
    shown = criterion.replace("nll", "NLL") if " " in criterion else criterion.upper()
    show_lines(f"{words}, fitted by {shown} on {description}")
    table = _table("", "value", "stderr")
    fitted = calibrator.to_dict()
    for one in artefact.parameters(fitted):
        table.add_row(one.name, one.size if one.value is None else f"{one.value:.4f}", one.error(".4f"))
    _console().print(table)
    if fitted.get("ranking"):
        _show_ranking(calibrator.ranking_)
    classes = [str(one) for one in fitted["classes"]]
    show_lines("classes: " + ", ".join(classes if len(classes) <= 10 else [*classes[:9], "…", classes[-1]]))


def _show_ranking(ranking: Sequence[Any]) -> None:
    """Write how the candidates did on rows left out, and which was taken."""
    table = _table("", "log loss, rows left out", "above the lowest")
    for one in ranking:
        name = f"[bold]{one.name}[/] (chosen)" if one.chosen else one.name
        above = f"{one.excess.value:.4f} [dim]± {one.excess.stderr:.4f}[/]" if one.excess.stderr else ""
        loss = f"{one.loss.value:.4f} [dim]\\[{one.loss.low:.4f}, {one.loss.high:.4f}][/]"
        table.add_row(name, loss, above)
    _console().print(table)
    show_lines("The simplest within one standard error of the lowest is chosen.")


def show_evaluations(evaluations: Mapping[str, Any]) -> None:
    """Write evaluations side by side: value and interval of each metric."""
    from focalcal.verdicts.evaluation import TITLES

    single = len(evaluations) == 1
    table = _table("", *(["value"] if single else evaluations))
    some = next(iter(evaluations.values()))
    for metric in some:
        cells = []
        for evaluation in evaluations.values():
            e = evaluation[metric]
            cells.append(f"[bold]{e.value:.4f}[/] [dim]\\[{e.low:.4f}, {e.high:.4f}][/]")
        table.add_row(TITLES.get(metric, metric), *cells)
    _console().print(table)
    level = next(iter(some.values())).level
    show_lines(f"n = {some.n:,} rows, {some.n_classes} classes; in brackets {level:.0%} intervals.")
    if any(e.value > e.high for evaluation in evaluations.values() for e in evaluation.values()):
        show_lines(
            "A calibration error above its interval: the textbook formula counts chance as error, the",
            "interval says what is left without it.",
        )


def show_segments(by: str, segments: Sequence[Any]) -> None:
    """Write a table of segments: rows, NLL and ECE of each evaluation."""
    names = list(segments[0].evaluations) if segments else []
    titles = [f"{title} {name}" if len(names) > 1 else title for name in names for title in ("NLL", "ECE")]
    table = _table(by, "rows", *titles, "p", wrap=True)
    for segment in segments:
        cells = [
            f"[bold]{e.value:.4f}[/] [dim]\\[{e.low:.4f}, {e.high:.4f}][/]"
            for evaluation in segment.evaluations.values()
            for e in (evaluation["nll"], evaluation["ece"])
        ]
        value = "(none)" if segment.value is None else segment.value.replace("[", "\\[")
        table.add_row(value, f"{segment.n:,}", *cells, _p(segment.adjusted_p_value))
    _console().print(table)
    show_lines(
        "Largest error first, by the lower end of the ECE's interval: a few rows show gaps by chance.",
        "p: how often calibrated rows would show such an ECE, allowing for the number of segments (Holm).",
    )


def show_comparison(found: Any) -> None:
    """Write two models' scores, their paired differences and p-values."""
    from focalcal.verdicts.evaluation import TITLES

    table = _table("", *(name.replace("[", "\\[") for name in found.names), "difference", "p")
    for name, one in found.items():
        d = one.difference
        table.add_row(
            TITLES.get(name, name),
            f"{one.a.value:.4f}",
            f"{one.b.value:.4f}",
            f"[bold]{d.value:+.4f}[/] [dim]\\[{d.low:+.4f}, {d.high:+.4f}][/]",
            _p(one.p_value),
        )
    _console().print(table)
    level = next(iter(found.values())).difference.level
    show_lines(
        f"n = {found.n:,} rows; difference: second minus first, in brackets its {level:.0%} interval.",
        "Calibration errors' differences are freed of what noise adds to each of the two.",
    )


def _p(value: float | None) -> str:
    return "" if value is None else "<.0001" if value < 1e-4 else f"{value:.4f}"


def _table(*columns: str, wrap: bool = False) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=not wrap)
    return table


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


class Progress:
    """A line on standard error that says what goes on, only if that is a terminal."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._status: Any = None
        self._pass, self._start = "", 0.0

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status(f"{self._what} …")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def told(self, what: str, done: int, n: int) -> None:
        """Say how far a pass over n rows is; n is 0 while that is not known."""
        if self._status is None:
            return
        now = time.monotonic()
        if what != self._pass:
            self._pass, self._start = what, now
        doing = f"{self._what}, {what}" if what else self._what
        self._status.update(f"{doing}{how_far(done, n, now - self._start)} …")

    def rows(self, done: int) -> None:
        """Say how many rows are done, of who knows how many."""
        self.told("", done, 0)


def how_far(done: int, n: int, seconds: float) -> str:
    """Return rows done, rows a second, the share of all rows and the time left, as far as they are known.

    Examples
    --------
    >>> how_far(2_000_000, 8_000_000, 4.0), how_far(12_345, 0, 0.0)
    (': 2,000,000 rows, 500,000/s, 25 %, 12 s left', ': 12,345 rows')
    """
    if not done:
        return ""
    speed = done / seconds if seconds > 0 else 0.0
    text = f": {done:,} rows" + (f", {speed:,.0f}/s" if speed else "")
    if n:
        left = (n - done) / speed if speed else math.inf
        shown = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
        text += f", {done / n:.0%}".replace("%", " %") + (f", {shown} left" if speed else "")
    return text


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the text of each `CalibrationWarning` once; other warnings go on as they were."""
    import warnings

    from focalcal._validate import CalibrationWarning

    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    for warning in caught:
        if not issubclass(warning.category, CalibrationWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif str(warning.message) not in notes:
            notes.append(str(warning.message))
