"""One run, from its recipe to the logits of validation and test images; killed anywhere, it goes on the same.

Everything random is a function of (seed, step), so that a checkpoint is weights, momenta and a number. With
torchrun each process takes its share of every batch, and the first one writes.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import focalcal
from focalcal.curvature import SAM, TracePenalty
from focalcal.experiments.datasets import ImageData
from focalcal.experiments.recipes import LOSSES, NETS, Recipe
from focalcal.io.files import written_aside

Progress = Callable[[str, int, int], None]


@dataclass
class _Run:
    """What training moves."""

    recipe: Recipe
    data: ImageData
    model: nn.Module
    stepped: nn.Module  # the model, or what shares its gradients with other processes
    loss: nn.Module
    optimizer: torch.optim.SGD
    scaler: torch.amp.GradScaler
    labels: Tensor
    device: torch.device
    step: int = 0
    seconds: float = 0.0


def train(
    recipe: Recipe,
    data: ImageData,
    folder: Path,
    *,
    device: str | None = None,
    compiled: bool = False,
    every: float = 300.0,
    steps: int | None = None,
    progress: Progress | None = None,
) -> bool:
    """Train a network, and write its weights and the logits of validation and test images.

    Parameters
    ----------
    recipe : Recipe
        What to train.
    data : ImageData
        Of `open_dataset`.
    folder : Path
        Gets "weights.pt", "scores.npz" (val_logits, val_labels, test_logits, test_labels) and "run.json";
        while it trains, "checkpoint.pt".
    device : str, optional
        Default: a GPU if there is one.
    compiled : bool
        Whether torch.compile is used.
    every : float
        Seconds between checkpoints; one is also written when it stops early.
    steps : int, optional
        Stop after so many steps of this call, for a try.
    progress : callable, optional
        Told (what, step, steps).

    Returns
    -------
    bool
        Whether the run is complete.

    Raises
    ------
    ValueError
        For a checkpoint of another recipe, or a loss that is no longer finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "run.json").is_file():
        return True
    run = _set_up(recipe, data, device, compiled)
    _restore(run, folder / "checkpoint.pt")
    total = recipe.epochs * _steps_an_epoch(recipe, data)
    started = saved = time.monotonic()
    before, last = run.seconds, total if steps is None else min(total, run.step + steps)
    while run.step < last:
        _one_step(run)
        run.seconds = before + time.monotonic() - started
        if run.step % _steps_an_epoch(recipe, data) == 0:
            _end_of_epoch(run)
        if progress is not None:
            progress(recipe.key, run.step, total)
        if time.monotonic() - saved > every:
            _save(run, folder / "checkpoint.pt")
            saved = time.monotonic()
    if run.step < total:
        _save(run, folder / "checkpoint.pt")
        return False
    _finish(run, folder)
    return True


def _set_up(recipe: Recipe, data: ImageData, device: str | None, compiled: bool) -> _Run:
    recipe.checked()
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(recipe.seed)
    channels, side = data.train.x.shape[1], data.train.x.shape[2]
    model = NETS[recipe.net](channels, side, data.classes)
    model = model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster
    stepped: nn.Module = model
    if _world() > 1:
        stepped = nn.parallel.DistributedDataParallel(model)
    if compiled:
        stepped = torch.compile(stepped)  # type: ignore[assignment]
    loss = LOSSES[recipe.loss](recipe.reduction).to(where)
    optimizer = torch.optim.SGD(model.parameters(), recipe.rate, recipe.momentum, weight_decay=recipe.decay)
    scaler = torch.amp.GradScaler(where.type, enabled=recipe.precision == "float16")
    labels = noisy(data.train.y, recipe.label_noise, data.classes, recipe.seed)
    return _Run(recipe, data, model, stepped, loss, optimizer, scaler, labels, where)


def noisy(y: Tensor, share: float, classes: int, seed: int) -> Tensor:
    """Return labels of which an exact share were moved to another class."""
    rng = np.random.default_rng([seed, 1])
    rows = torch.from_numpy(rng.permutation(len(y))[: round(share * len(y))])
    moved = y.clone()
    moved[rows] = (y[rows] + torch.from_numpy(rng.integers(1, classes, len(rows)))) % classes
    return moved


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (n, channels, side, side) padded by 4, cropped anywhere, and half of them mirrored."""
    n, side = len(x), x.shape[-1]
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    top, left = torch.randint(9, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(side), left + torch.arange(side)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    every = torch.arange(n)[:, None, None]
    return padded[every, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()


def _steps_an_epoch(recipe: Recipe, data: ImageData) -> int:
    return -(-len(data.train) // recipe.batch_size)


def _batch(run: _Run) -> tuple[Tensor, Tensor]:
    """Return this process's share of the step's rows."""
    recipe, whole = run.recipe, _steps_an_epoch(run.recipe, run.data)
    epoch, i = divmod(run.step, whole)
    order = torch.randperm(len(run.labels), generator=_generator(recipe.seed, 2 * epoch))
    rows = order[i * recipe.batch_size : (i + 1) * recipe.batch_size]
    x = run.data.train.x[rows]
    if recipe.augment:
        x = augmented(x, _generator(recipe.seed, 2 * run.step + 1))
    mine = slice(rank(), None, _world())
    return run.data.normalised(x[mine].to(run.device)), run.labels[rows][mine].to(run.device)


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_000_007 + number)


def _one_step(run: _Run) -> None:
    recipe, x_y = run.recipe, _batch(run)
    torch.manual_seed(recipe.seed * 1_000_003 + run.step)  # dropout's
    run.model.train()
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.rate_at(run.step // _steps_an_epoch(recipe, run.data))
    run.optimizer.zero_grad(set_to_none=True)
    value = _backward(run, *x_y)
    if not torch.isfinite(value):
        raise ValueError(
            f"Expected a finite loss, got {float(value)} at step {run.step} of {recipe.key}. Lower the rate."
        )
    run.scaler.unscale_(run.optimizer)
    nn.utils.clip_grad_norm_(run.model.parameters(), recipe.clip)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.step += 1


def _backward(run: _Run, x: Tensor, y: Tensor) -> Tensor:
    recipe = run.recipe
    # processes average their gradients; a sum over the batch is to stay one
    factor = _world() if recipe.reduction == "sum" else 1

    def closure() -> Tensor:
        with _autocast(run):
            logits = run.stepped(x)
        value: Tensor = run.scaler.scale(factor * run.loss(logits.float(), y))
        return value

    if recipe.rho:
        return SAM(run.model, recipe.rho).backward(closure)
    value = closure()
    if recipe.penalty and run.step % 10 == 0:
        penalty = TracePenalty(10 * recipe.penalty, seed=run.step)
        rows = factor * len(y) if recipe.reduction == "sum" else 1
        plain = getattr(run.stepped, "_orig_mod", run.stepped)  # compiled ones have no second derivatives
        value = value + run.scaler.scale(rows * penalty(plain, nn.CrossEntropyLoss(), x, y))
    value.backward()  # type: ignore[no-untyped-call]
    return value.detach()


def _autocast(run: _Run) -> AbstractContextManager[Any]:
    if run.recipe.precision == "float32":
        return nullcontext()
    return torch.autocast(run.device.type, getattr(torch, run.recipe.precision))


def _end_of_epoch(run: _Run) -> None:
    update = getattr(run.loss, "update", None)
    if update is not None:
        logits, labels = logits_of(run, "val")
        update(logits, labels)


def logits_of(run: _Run, part: str) -> tuple[Tensor, Tensor]:
    """Return the logits (n, K), float32 on the CPU, and labels of a part of the data, in eval mode."""
    rows = getattr(run.data, part)
    run.model.eval()
    found = []
    with torch.inference_mode():
        for x in rows.x.split(500):
            found.append(run.model(run.data.normalised(x.to(run.device))).float().cpu())
    return torch.cat(found), rows.y


def _save(run: _Run, path: Path) -> None:
    if rank():
        return
    state = {
        "recipe": json.dumps(run.recipe.to_dict()),
        "step": run.step,
        "seconds": run.seconds,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "loss": run.loss.state_dict(),
    }
    with written_aside(path) as aside:
        torch.save(state, aside)


def _restore(run: _Run, path: Path) -> None:
    if not path.is_file():
        return
    state = torch.load(path, map_location=run.device, weights_only=True)
    if json.loads(state["recipe"]) != run.recipe.to_dict():
        raise ValueError(f"Expected a checkpoint of {run.recipe.key} in {path}, got another's. Move it away.")
    run.step, run.seconds = state["step"], state["seconds"]
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    run.loss.load_state_dict(state["loss"])


def _finish(run: _Run, folder: Path) -> None:
    if rank():
        return
    scores = dict(_scores(run))
    with written_aside(folder / "scores.npz") as aside, open(aside, "wb") as file:
        np.savez(file, **scores)
    with written_aside(folder / "weights.pt") as aside:
        torch.save(run.model.state_dict(), aside)
    told = {
        "recipe": run.recipe.to_dict(),
        "steps": run.step,
        "seconds": round(run.seconds, 3),
        "processes": _world(),
        "device": str(run.device),
        "machine": platform.machine(),
        "versions": {
            "focalcal": focalcal.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    with written_aside(folder / "run.json") as aside:  # last: where it is, the run is complete
        Path(aside).write_text(json.dumps(told, indent=1), encoding="utf-8")
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def _scores(run: _Run) -> Iterator[tuple[str, Any]]:
    for part in ("val", "test"):
        logits, labels = logits_of(run, part)
        yield f"{part}_logits", logits.numpy()
        yield f"{part}_labels", labels.numpy()


def _world() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """Return this process's number among those of torchrun, 0 where it is alone."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
