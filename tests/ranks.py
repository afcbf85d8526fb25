"""Two processes that torch.distributed joins, fresh ones: a fork of a process with threads may never end."""

import importlib.util
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SECONDS = 120


def run_two_ranks(function: Callable[..., None], meeting: Path, *arguments: Any) -> None:
    """Call a test module's `function(rank, *arguments)` in two processes of a gloo group."""
    context = multiprocessing.get_context("forkserver")
    # imported once for all tests, and without threads yet; the server of test_trials may be this one
    context.set_forkserver_preload(["torch", "focalcal.experiments.trials"])
    where = function.__code__.co_filename, function.__name__
    ranks = [
        context.Process(target=_rank, args=(rank, str(meeting / "ranks"), where, arguments))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(_SECONDS)
        assert [process.exitcode for process in ranks] == [0, 0], "a rank failed, or did not end"
    finally:
        for process in ranks:
            process.kill()


def _rank(rank: int, meeting: str, where: tuple[str, str], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("ranks_of", where[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        getattr(module, where[1])(rank, *arguments)
    finally:
        torch.distributed.destroy_process_group()
