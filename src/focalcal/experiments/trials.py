"""Are a study's runs sound, before days go into them? Each kind is killed after a step, and must go on.

Random images take the place of the data sets, two at a time; all else is as in the real run. A process writes
its checkpoint after the first step and is killed (SIGKILL) in the second; another one takes the second step
from there; a third takes both. Weights, momenta and the loss's state must be the same, bit by bit.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from focalcal.experiments.costs import hours, kind
from focalcal.experiments.datasets import ImageData
from focalcal.experiments.recipes import Recipe, from_dict
from focalcal.experiments.shapes import Shape, made_images, shape_of
from focalcal.experiments.train import Progress, train
from focalcal.io.files import written_aside

#: Images of each part and of a batch: every step ends an epoch, after which AdaFocal moves its state.
_ROWS = 2
#: Seconds that a process may take.
_PATIENCE = 1800.0


@dataclass(frozen=True)
class Trial:
    """What came of one try.

    Attributes
    ----------
    recipe : Recipe
        The real run.
    ok : bool
        Whether the killed run went on as if nothing had been.
    seconds : float
        That the try took.
    megabytes : float
        Of a checkpoint, 10^6 bytes; 0 where none was written.
    hours : float
        That the real run will take, as `focalcal.experiments.costs.hours` estimates.
    reason : str
        What went wrong, or "".
    """

    recipe: Recipe
    ok: bool
    seconds: float
    megabytes: float
    hours: float
    reason: str = ""


def try_out(
    recipes: Iterable[Recipe],
    folder: str | os.PathLike[str],
    *,
    images: ImageData | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> list[Trial]:
    """Try one run of each kind: of each data set, network and loss, with and without trace penalty and SAM.

    Parameters
    ----------
    recipes : iterable of Recipe
        Of which the first of each kind is tried.
    folder : str or path-like
        Gets "trials.json", written after each try; what passed there is not tried again. Checkpoints are
        deleted.
    images : ImageData, optional
        Those of the data set that is a file, where there is one: what the random ones are to be like.
    device : str, optional
        Default: a GPU if there is one.
    progress : callable, optional
        Told (what, try, tries).

    Returns
    -------
    list of Trial
        One of each kind, in the recipes' order.

    Raises
    ------
    ValueError
        For a data set of which nothing is known.

    Notes
    -----
    The processes are forked from a fresh one that has imported PyTorch and computed nothing: they start at
    once, and no thread's lock is held in them. As with all of `multiprocessing`, a script that calls this
    needs ``if __name__ == "__main__":``.
    """
    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    passed = {_kind(trial.recipe): trial for trial in read_trials(where) if trial.ok}
    first: dict[tuple[str, str, str], Recipe] = {}
    for recipe in recipes:
        first.setdefault(_kind(recipe), recipe.checked())
    found = dict(passed)
    for i, (name, recipe) in enumerate(first.items(), 1):
        if name not in passed or passed[name].recipe != recipe:
            found[name] = _tried(recipe, where / recipe.key, images, device)
            _write(where, found.values())
        if progress is not None:
            progress(" ".join(name), i, len(first))
    return [found[name] for name in first]


def read_trials(folder: str | os.PathLike[str]) -> list[Trial]:
    """Return the tries that `try_out` wrote into a folder; none where there is no "trials.json"."""
    path = Path(folder) / "trials.json"
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [Trial(**row | {"recipe": from_dict(row["recipe"])}) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"Expected the tries of try_out in {path}, got {error}. Move it away.") from error


def trials_table(trials: Iterable[Trial]) -> str:
    """Return what came of the tries in Markdown: a line for each data set and network, and what failed.

    Examples
    --------
    >>> print(trials_table([Trial(Recipe("digits", "mlp"), True, 1.26, 0.5, 0.1)]))
    | data | network | tried | passed | seconds a try | megabytes a checkpoint |
    | --- | --- | ---: | ---: | ---: | ---: |
    | digits | mlp | 1 | 1 | 1.3 to 1.3 | 0.5 |
    """
    grouped: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        grouped.setdefault((trial.recipe.data, trial.recipe.net), []).append(trial)
    lines = ["| data | network | tried | passed | seconds a try | megabytes a checkpoint |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: |")
    for (data, net), each in grouped.items():
        seconds, passed = [trial.seconds for trial in each], sum(trial.ok for trial in each)
        took, size = f"{min(seconds):.1f} to {max(seconds):.1f}", max(trial.megabytes for trial in each)
        lines.append(f"| {data} | {net} | {len(each)} | {passed} | {took} | {size:.1f} |")
    failed = [trial for each in grouped.values() for trial in each if not trial.ok]
    told = [f"- {' '.join(_kind(trial.recipe))}: {trial.reason}" for trial in failed]
    return "\n".join([*lines, *([""] if told else []), *told])


def _write(folder: Path, trials: Iterable[Trial]) -> None:
    rows = [asdict(trial) | {"recipe": trial.recipe.to_dict()} for trial in trials]
    with written_aside(folder / "trials.json") as aside:
        Path(aside).write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _kind(recipe: Recipe) -> tuple[str, str, str]:
    return recipe.data, recipe.net, kind(recipe)


def _tried(recipe: Recipe, folder: Path, images: ImageData | None, device: str | None) -> Trial:
    shape = shape_of(recipe.data, images)
    # a run of two epochs would be complete after two steps, and leave no checkpoint to look at
    little = replace(recipe, rows=_ROWS, batch_size=_ROWS, epochs=max(recipe.epochs, 3))
    shutil.rmtree(folder, ignore_errors=True)
    started, reason = time.monotonic(), ""
    try:
        _kill_after_a_step(little, shape, folder / "killed", device)
        _finish(_started(little, shape, folder / "killed", device, 1))
        _finish(_started(little, shape, folder / "whole", device, 2))
        reason = _difference(folder)
    except RuntimeError as error:
        reason = str(error)
    seconds = time.monotonic() - started
    sizes = [path.stat().st_size / 1e6 for path in folder.glob("*/checkpoint.pt")]
    shutil.rmtree(folder, ignore_errors=True)
    of_run = hours(recipe, images)
    return Trial(recipe, not reason, round(seconds, 3), round(max(sizes, default=0.0), 3), of_run, reason)


class _Child:
    """A process that trains, and what it says when it fails."""

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.said, told = context.Pipe(duplex=False)
        self.process = context.Process(target=_child, args=(told, *arguments), daemon=True)
        self.process.start()
        told.close()

    def reason(self) -> str:
        """Return why it ended, which is not as it should have."""
        try:
            return str(self.said.recv())
        except EOFError:
            code = self.process.exitcode
            return f"the process ended with code {code}; -9 is of memory, or of {_PATIENCE:.0f} seconds"


def _started(recipe: Recipe, shape: Shape, folder: Path, device: str | None, steps: int) -> _Child:
    return _Child(recipe, shape, folder, device, steps, False)


def _child(
    told: Any, recipe: Recipe, shape: Shape, folder: Path, device: str | None, steps: int, doomed: bool
) -> None:
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True

    def wait(_: str, step: int, __: int) -> None:
        if doomed and step == steps:
            time.sleep(_PATIENCE)  # however quick the last step was, it is not saved before the kill

    try:
        every = 0.0 if doomed else float("inf")
        made = made_images(shape, _ROWS)
        train(recipe, made, folder, device=device, every=every, steps=steps, progress=wait)
    except Exception as error:  # whatever it is, it is why this run would fail
        told.send(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error


def _kill_after_a_step(recipe: Recipe, shape: Shape, folder: Path, device: str | None) -> None:
    child, end = _Child(recipe, shape, folder, device, 2, True), time.monotonic() + _PATIENCE
    saved = folder / "checkpoint.pt"
    while not saved.is_file() and child.process.is_alive() and time.monotonic() < end:
        child.process.join(0.01)
    child.process.kill()
    child.process.join()
    if not saved.is_file():
        raise RuntimeError(f"no checkpoint after the first step: {child.reason()}")
    if (step := _read(saved)["step"]) != 1:
        raise RuntimeError(f"the checkpoint is of step {step}, not of the first")


def _finish(child: _Child) -> None:
    child.process.join(_PATIENCE)
    child.process.kill()  # of a process that has ended, nothing
    child.process.join()
    if child.process.exitcode:
        raise RuntimeError(child.reason())


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state


def _difference(folder: Path) -> str:
    """Return what the two runs' states differ in, or ""."""
    one, other = (
        dict(_leaves(_read(folder / run / "checkpoint.pt") | {"seconds": 0.0})) for run in ("killed", "whole")
    )
    names = [name for name in one.keys() | other.keys() if not _same(one.get(name), other.get(name))]
    if not names:
        return ""
    return f"{len(names)} of {len(other)} values differ after the kill, among them {min(names)}"


def _leaves(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(state, dict):
        for key, value in state.items():
            yield from _leaves(value, f"{name}/{key}")
    else:
        yield name, state


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return bool(type(one) is type(other) and one == other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    # as bytes, for which NaN equals itself and -0.0 differs from 0.0
    return torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (one, other)))
