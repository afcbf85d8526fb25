"""Sweeps: workers never share a run, and kills at random moments lose and repeat nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal.experiments.datasets import open_dataset  # noqa: E402
from focalcal.experiments.recipes import Recipe  # noqa: E402
from focalcal.experiments.sweep import Sweep, run_sweep  # noqa: E402
from focalcal.experiments.train import train  # noqa: E402

OWN = {"epochs": 2, "drops": (1,), "reduction": "mean", "rate": 0.05, "rows": 64, "batch_size": 16}


def recipes(count, net="mlp"):
    return [Recipe("digits", net, "ce", seed, augment=False, **OWN) for seed in range(count)]


def here(process):
    return f"{socket.gethostname()}:{process}:1"


def gone():
    """A process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_every_run_is_claimed_once(tmp_path):
    Sweep(tmp_path).add(recipes(40))

    def work(i):
        found, own = [], Sweep(tmp_path)
        while (recipe := own.claim(here(os.getpid()))) is not None:
            found.append(recipe.seed)
        return found

    with ThreadPoolExecutor(6) as pool:
        claimed = [seed for found in pool.map(work, range(6)) for seed in found]
    assert sorted(claimed) == list(range(40))


def test_runs_are_in_order_and_added_once(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.add(recipes(2))
    sweep.add(recipes(4))
    assert sweep.status().waiting == 4
    assert [sweep.claim(here(os.getpid())).seed for _ in range(4)] == [0, 1, 2, 3]
    assert sweep.claim(here(os.getpid())) is None


def test_the_run_of_a_dead_worker_goes_on_first(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.add(recipes(3))
    dead = here(gone())
    assert sweep.claim(dead).seed == 0
    assert sweep.claim(here(os.getpid())).seed == 0
    with pytest.raises(RuntimeError, match="another worker took it"):
        sweep.told(recipes(1)[0].key, dead, 1, 8, 0.1)
    assert sweep.claim("elsewhere:1:1").seed == 1
    assert sweep.claim(here(os.getpid())).seed == 2  # the other machine has been heard of just now
    assert sweep.claim(here(os.getpid())) is None
    with sweep._writing() as base:
        base.execute("UPDATE runs SET beat = beat - 1000 WHERE owner LIKE 'elsewhere%'")
    assert sweep.claim(here(os.getpid())).seed == 1


def test_a_sweep_in_full(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.add([*recipes(3), Recipe("cifar10", "mlp", "ce", **OWN)])
    told = []
    status = run_sweep(tmp_path, data=tmp_path, progress=lambda *what: told.append(what))
    assert (status.done, status.failed, status.waiting, status.running) == (3, 1, 0, 0)
    (message,) = status.messages.values()
    assert message.startswith("FileNotFoundError: Expected cifar-10-binary.tar.gz")
    assert "3 done, 0 running, 0 waiting, 1 failed" in str(status)
    assert len(told) == 3 * 8
    found = sweep.done()
    assert [recipe.seed for recipe, _ in found] == [0, 1, 2]
    for _, folder in found:
        with np.load(folder / "scores.npz") as file:
            assert file["test_logits"].shape == (64, 10)
    sweep.retry()
    assert sweep.status().waiting == 1
    sweep.add(recipes(5))
    assert sweep.status().seconds_left is None  # nothing is known of the failed one's data
    with sweep._writing() as base:
        base.execute("DELETE FROM runs WHERE recipe LIKE '%cifar10%'")
        base.execute("UPDATE runs SET seconds = 60 WHERE state = 'done'")
    assert sweep.status().seconds_left == pytest.approx(120)
    assert "about 2 minutes left" in str(sweep.status())


def test_workers_of_an_executor(tmp_path):
    Sweep(tmp_path).add(recipes(4))
    with ThreadPoolExecutor(1) as pool:
        assert run_sweep(tmp_path, executor=pool, workers=1).done == 4
    with pytest.raises(ValueError, match="Expected workers"), ThreadPoolExecutor(1) as pool:
        run_sweep(tmp_path, executor=pool, workers=0)


PROGRAM = """
import os, sys, time, torch
torch.set_num_threads(1)
from focalcal.experiments import sweep, train
finish, step = train._finish, train._one_step
def counted(run, folder):
    finish(run, folder)
    with open(sys.argv[1] + "/finished.txt", "a") as file:
        file.write(run.recipe.key + "\\n")
def slow(run):
    time.sleep(0.01)
    step(run)
train._finish, train._one_step = counted, slow
for line in sys.stdin:  # a worker each: what takes long is to import torch
    child = os.fork()
    if not child:
        sweep.run_sweep(sys.argv[1], every=0.0)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_repeat_nothing(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.add(recipes(12))
    rng = np.random.default_rng(0)
    done: dict[str, str] = {}
    program = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as workers:
        for turn in range(21):
            workers.stdin.write("\n")
            workers.stdin.flush()
            child = int(workers.stdout.readline())
            if turn < 20:
                time.sleep(rng.uniform(0.02, 0.25))
                os.kill(child, signal.SIGKILL)
            assert workers.stdout.readline() == "ended\n"
            for key, text in done.items():  # what was finished is as it was
                assert (tmp_path / key / "run.json").read_text() == text
            done |= {path.parent.name: path.read_text() for path in tmp_path.glob("*/run.json")}
        workers.stdin.close()
    assert sweep.status().done == len(done) == 12
    assert {recipe.seed for recipe, _ in sweep.done()} == set(range(12))
    for recipe, folder in sweep.done():
        assert json.loads((folder / "run.json").read_text())["recipe"]["seed"] == recipe.seed
    written = (tmp_path / "finished.txt").read_text().split()
    assert len(written) == len(set(written)) >= 10  # twice a run may be killed before it is counted
    assert Sweep(tmp_path).claim(here(os.getpid())) is None
    images = open_dataset("digits").smaller(64)
    for recipe, folder in sweep.done():  # as if nothing had happened
        train(recipe, images, tmp_path / "whole" / recipe.key)
        one, other = (
            torch.load(place / "weights.pt", weights_only=True)
            for place in (folder, tmp_path / "whole" / recipe.key)
        )
        assert all(torch.equal(one[name], other[name]) for name in one)
