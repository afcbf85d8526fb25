"""The same digits on one core, on many, on a cluster, and when a worker dies."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import focalcal
from focalcal import FocalTemperatureScaling, evaluate, open_scores
from focalcal.cli import main
from predictions import draw

K, PARTS = 4, 4


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    """Four files of two to five row groups each."""
    folder = tmp_path_factory.mktemp("parts")
    for part in range(PARTS):
        n = 8000 + 1400 * part
        z, y = draw(n, K, seed=part)
        table = {f"z{j}": z[:, j].astype(np.float32) for j in range(K)}
        pq.write_table(
            pa.table(table | {"y": y, "part": [f"part {part}"] * n}),
            folder / f"{part}.parquet",
            row_group_size=4000,
        )
    return str(folder / "*.parquet")


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr("focalcal.io.scan.PART_ELEMENTS", (1, 4000 * K))


@pytest.fixture(scope="module")
def local(pattern):
    return FocalTemperatureScaling().fit(open_scores(pattern, logits="z*", label="y"))


class Shuffled(Executor):
    """Futures that are done in another order than they were submitted in."""

    def __init__(self):
        self.waiting, self.random, self.lock = [], random.Random(0), threading.Lock()

    def submit(self, function, *args):
        future = Future()
        with self.lock:
            self.waiting.append((future, function, args))
            full = len(self.waiting) == 8
        if full:
            self.shutdown()
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        with self.lock:  # two threads call this: each takes what the other has not
            taken, self.waiting = self.waiting, []
            self.random.shuffle(taken)
        for future, function, args in taken:
            future.set_result(function(*args))


class Order:
    """A task whose sums tell the order they were merged in."""

    threads = False

    def __call__(self, block):
        return (block.first,)


def agree(fitted, local):
    assert fitted.temperature_ == pytest.approx(local.temperature_, rel=1e-12)
    assert fitted.gamma_ == pytest.approx(local.gamma_, rel=1e-12, abs=1e-12)
    assert fitted.stderr_ == pytest.approx(local.stderr_, rel=1e-9)


def test_threads(pattern, local, small_parts):
    scores = open_scores(pattern, logits="z*", label="y")
    with ThreadPoolExecutor(3) as pool:
        agree(FocalTemperatureScaling().fit(scores, executor=pool), local)


def test_processes(pattern, local, small_parts):
    scores = open_scores(pattern, logits="z*", label="y")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        agree(FocalTemperatureScaling().fit(scores, executor=pool), local)
        judged = evaluate(scores, executor=pool)
    for name, estimate in evaluate(scores).items():
        assert judged[name].value == pytest.approx(estimate.value, rel=1e-12)


def test_futures_that_are_done_in_any_order(pattern, small_parts):
    rows, _ = open_scores(pattern, logits="z*", label="y").rows(executor=ThreadPoolExecutor(1))
    assert len(rows.parts) == 12

    shuffled, summed = Shuffled(), threading.Event()

    def finish_the_last():
        while not summed.wait(0.3):
            shuffled.shutdown()

    with ThreadPoolExecutor(1) as later:
        later.submit(finish_the_last)
        try:
            firsts = replace(rows, executor=shuffled).map_sum(Order())
        finally:
            summed.set()
    assert list(firsts) == sorted(firsts)
    assert firsts[0] == 0


def test_files_in_another_order(pattern, local):
    folder = Path(pattern).parent
    for part in range(PARTS):
        (folder / f"turned{PARTS - part}.pq").symlink_to(folder / f"{part}.parquet")
    turned = FocalTemperatureScaling().fit(open_scores(folder / "turned*.pq", logits="z*", label="y"))
    # another sample leads to the same optimum, up to the tolerance of the fit
    assert turned.temperature_ == pytest.approx(local.temperature_, rel=1e-6)


def run_on_cluster(folder, pattern):
    script = Path(__file__).parent / "cluster_fit.py"
    settings = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DASK_CONFIG": str(folder),
        "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver",  # imports what workers need once
    }
    ran = subprocess.run(
        [sys.executable, str(script), str(folder), pattern],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=os.environ | settings,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker(pattern, local, tmp_path, capsys):
    out = run_on_cluster(tmp_path, pattern)
    agree(focalcal.load(tmp_path / "cal.json"), local)
    judged = json.loads(out[out.index("{") : out.rindex("}") + 1])
    local.save(tmp_path / "local.json")
    options = ["--logits", "z*", "--label", "y", "--calibrator", str(tmp_path / "local.json")]
    assert main(["evaluate", pattern, *options, "--by", "part", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert judged["n"] == alone["n"]
    for name in ("before", "after"):
        for metric, estimate in alone[name]["metrics"].items():
            assert judged[name]["metrics"][metric]["value"] == pytest.approx(estimate["value"], rel=1e-9)
    assert [one["segment"] for one in judged["segments"]] == [one["segment"] for one in alone["segments"]]
    _, temperature, gamma = json.loads(out.splitlines()[-1])
    assert temperature == pytest.approx(local.temperature_, rel=1e-12)
    assert gamma == pytest.approx(local.gamma_, rel=1e-12, abs=1e-12)


def test_no_scheduler_there(pattern, capsys, monkeypatch):
    monkeypatch.setattr("focalcal.cli.executors._PATIENCE", 1)
    arguments = ["fit", pattern, "--logits", "z*", "--label", "y", "-o", "cal.json"]
    assert main([*arguments, "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "Expected a Dask scheduler at 'tcp://127.0.0.1:9'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main([*arguments, "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "pip install 'focalcal[dask]'" in capsys.readouterr().err
