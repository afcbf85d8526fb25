"""The command that trains and judges the networks of both papers' experiments."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from focalcal.cli.options import Json

if TYPE_CHECKING:
    from focalcal.experiments.reproduce import Reproduction
    from focalcal.experiments.sweep import Status


def reproduce(
    paper: Annotated[
        Literal["fts", "curvature"],
        typer.Argument(
            metavar="PAPER",
            help="fts: does focal temperature scaling beat temperature scaling? curvature: does focal loss "
            "flatten the loss surface, and does that calibrate?",
        ),
    ],
    profile: Annotated[
        Literal["small", "full"],
        typer.Option(help="small: an hour on two cores. full: as published, for GPUs."),
    ] = "small",
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Gets runs and pages. Both papers may share it, and several machines may work in it.",
        ),
    ] = Path("reproduction"),
    data: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the data sets' archives are, as downloaded.")
    ] = Path("data"),
    images: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What small takes besides Fashion-MNIST: cifar10, cifar100, digits, or an .npz in --data.",
        ),
    ] = "cifar10",
    workers: Annotated[int, typer.Option(min=1, help="Networks that are trained at a time.")] = 2,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Train and judge on a Dask cluster, e.g. tcp://host:8786, whose workers see the same "
            "folders. Needs focalcal[dask].",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="What the workers take in turn: cpu, or cuda:0,cuda:1."),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the forward passes in training.")
    ] = "float32",
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Train runs that failed once more.")] = False,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="fts only, may be repeated: an .npz file with logits or probs, labels and val_mask, "
            "studied beside the trained networks.",
        ),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only say how far it is; of full also what it costs.")
    ] = False,
    try_out: Annotated[
        bool,
        typer.Option(
            "--try",
            help="Only try each kind of run on random images: a step, a checkpoint, a kill, and on; then say "
            "what it will cost.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Train the networks of a paper's experiments, judge them, and write a page of what came out.

    It can be stopped and started again at any time: what is finished stays, the rest goes on from its last
    checkpoint. Nothing is downloaded. Needs focalcal[torch].

    \b
    Examples:
      focalcal reproduce fts --data downloads
      focalcal reproduce curvature --data downloads --status
      focalcal reproduce fts --profile full --try
      torchrun --nproc-per-node 4 -m focalcal reproduce fts --profile full --workers 1 --precision bfloat16
    """
    from focalcal._settings import optional_module

    optional_module("torch", "focalcal reproduce", "torch")
    from focalcal.cli import console
    from focalcal.experiments.reproduce import Reproduction

    if scores and paper != "fts":
        raise ValueError("Expected --scores with fts, got curvature: curvature needs the networks.")
    plan = Reproduction(paper, profile, out, data, images, precision)
    if status:
        _show(plan.status(), plan, json)
        return
    if try_out:
        _try(plan, device, json)
        return
    plan.check_files(scores or [])
    with _ranks(workers) as first:
        found = _train(plan, workers, scheduler, device, first, compiled=compiled, retry=retry)
        if not first:
            return
        page = _judge(plan, workers, scheduler, scores or [])
    if json:
        console.show_json("reproduce", {"page": str(page), "status": vars(found)})
    else:
        console.show_lines(str(found), f"Wrote {page}")
    if found.failed:
        raise typer.Exit(1)


def _train(
    plan: Reproduction, workers: int, scheduler: str | None, device: str | None, first: bool, **options: Any
) -> Status:
    from focalcal.cli import console, executors
    from focalcal.experiments.reproduce import processes

    seen = -1

    def watch(now: Status) -> None:
        nonlocal seen
        line = str(now).partition("\n")[0]
        progress.told(line, 0, 0)
        if now.done != seen and first and not sys.stderr.isatty():
            sys.stderr.write(f"{line}\n")
        seen = now.done

    devices = tuple(device.split(",")) if device else ()
    with (
        executors.executor(scheduler) as cluster,
        processes(1 if scheduler else workers) as own,
        console.Progress(f"Training in {plan.folder}") as progress,
    ):
        return plan.train(
            executor=cluster or own,
            workers=workers,
            devices=devices,
            watch=watch,
            progress=lambda what, step, steps: progress.told(what, step, steps),
            **options,
        )


def _judge(plan: Reproduction, workers: int, scheduler: str | None, scores: list[str]) -> Path:
    from focalcal.cli import console, executors
    from focalcal.experiments.reproduce import processes

    with (
        executors.executor(scheduler) as cluster,
        processes(1 if scheduler else workers) as own,
        console.Progress("Judging") as progress,
    ):
        command = _command(plan, scores)
        return plan.page(command, scores=scores, executor=cluster or own, progress=progress.told)


def _try(plan: Reproduction, device: str | None, json: bool) -> None:
    from focalcal.cli import console
    from focalcal.experiments.trials import trials_table

    with console.Progress("Trying") as progress:
        found = plan.try_out(device=device, progress=progress.told)
    if json:
        told = [vars(trial) | {"recipe": trial.recipe.to_dict()} for trial in found]
        console.show_json("reproduce", {"trials": told})
    else:
        console.show_lines(*trials_table(found).splitlines(), "", *plan.costs().splitlines())
    if not all(trial.ok for trial in found):
        raise typer.Exit(1)


def _show(found: Status, plan: Reproduction, json: bool) -> None:
    from focalcal.cli import console

    if json:
        console.show_json("reproduce", {"status": vars(found)})
    else:
        console.show_lines(str(found), *(["", *plan.costs().splitlines()] if plan.profile == "full" else []))


def _command(plan: Reproduction, scores: list[str]) -> str:
    """Return what makes the page again; where files are is everybody's own."""
    import shlex

    own = ["--precision", plan.precision] if plan.precision != "float32" else []
    own += ["--images", plan.images] if plan.images != "cifar10" else []
    own += [part for path in scores for part in ("--scores", os.path.basename(path))]
    return shlex.join(["focalcal", "reproduce", plan.paper, "--profile", plan.profile, *own])


@contextmanager
def _ranks(workers: int) -> Iterator[bool]:
    """Join the processes of torchrun, if there are any; yield whether this is the first."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield True
        return
    if workers != 1:
        raise ValueError(
            f"Expected --workers 1 under torchrun, got {workers}: its processes share each network."
        )
    import torch

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield torch.distributed.get_rank() == 0
    finally:
        torch.distributed.destroy_process_group()
