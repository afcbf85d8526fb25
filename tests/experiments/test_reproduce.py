"""`focalcal reproduce` on few digits: trained, judged, written, gone on with; by torchrun's processes too."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal.cli import main  # noqa: E402
from focalcal.experiments import reproduce, sweep  # noqa: E402
from focalcal.experiments.profiles import CONTROLS, FULL, planned  # noqa: E402
from focalcal.experiments.recipes import LOSSES, small  # noqa: E402
from focalcal.experiments.sweep import Sweep  # noqa: E402
from focalcal.experiments.train import train  # noqa: E402


def few(paper, profile, *, images="cifar10"):
    """Return a small plan of the same shape as the small profile."""
    own = {"epochs": 3, "rows": 200}
    losses = ("ce", "focal-1", "focal-3") if paper == "curvature" else ("ce", "focal-3", "adafocal")
    runs = [small("digits", "mlp", loss, seed, **own) for seed in range(2) for loss in losses]
    if paper == "curvature":
        plain = [run for run in runs if run.loss == "ce"]
        runs += [replace(run, penalty=1e-3) for run in plain]
        runs += [replace(run, net="linear", label_noise=0.2) for run in runs[:6]]
    return runs


@pytest.fixture(autouse=True)
def planned_few(monkeypatch):
    monkeypatch.setattr(reproduce, "planned", few)


def said(capsys, *arguments, code=0):
    assert main(["reproduce", *map(str, arguments)]) == code
    return capsys.readouterr()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The temperature:UserWarning")
def test_both_papers_in_one_folder(tmp_path, capsys):
    own = ("--out", tmp_path, "--workers", 1)
    before = said(capsys, "fts", *own, "--status").out
    assert before == "0 done, 0 running, 6 waiting, 0 failed\n"
    assert "| digits | mlp |" in said(capsys, "fts", *own, "--profile", "full", "--status").out
    assert list(tmp_path.iterdir()) == []
    out = said(capsys, "fts", *own).out
    assert out == f"6 done, 0 running, 0 waiting, 0 failed\nWrote {tmp_path / 'fts.html'}\n"
    assert "focalcal reproduce fts --profile small" in (tmp_path / "fts.html").read_text()
    trained = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("*/run.json")}
    assert said(capsys, "curvature", *own, "--status").out.startswith("4 done, 0 running, 10 waiting")
    told = json.loads(said(capsys, "curvature", *own, "--json").out)
    assert (told["status"]["done"], told["page"]) == (14, str(tmp_path / "curvature.html"))
    for key, time in trained.items():  # what both papers need is trained once
        assert (tmp_path / key / "run.json").stat().st_mtime_ns == time
    assert len(list(tmp_path.glob("*/run.json"))) == 6 - 2 + 14 - 2
    text = (tmp_path / "curvature.md").read_text()
    for part in ("trace penalty", "noisy labels", "divided by T", "14 of 14 planned"):
        assert part in text
    assert said(capsys, "fts", *own, "--status").out.startswith("6 done")


def test_a_run_that_failed_is_told_and_tried_again(tmp_path, capsys, monkeypatch):
    plan = few("curvature", "small")[:2]
    monkeypatch.setattr(reproduce, "planned", lambda *_, **__: plan)
    own = ("curvature", "--out", tmp_path, "--workers", 1)

    def full_disk(recipe, *arguments, **options):
        if recipe.loss == "focal-1":
            raise OSError("no space left")
        return train(recipe, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "train", full_disk)
        found = said(capsys, *own, code=1).out
    assert "1 done, 0 running, 0 waiting, 1 failed" in found
    assert "OSError: no space left" in found
    assert "1 done, 0 running, 0 waiting, 1 failed" in said(capsys, *own, code=1).out
    assert "2 done, 0 running, 0 waiting, 0 failed" in said(capsys, *own, "--retry").out


def test_wrong_use_is_named(tmp_path, capsys, monkeypatch):
    def wrong(*arguments):
        return said(capsys, *arguments, "--out", tmp_path, code=2).err

    assert "Expected --scores with fts" in wrong("curvature", "--scores", "a.npz")
    assert "none.npz" in wrong("fts", "--scores", tmp_path / "none.npz")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "Expected --workers 1 under torchrun, got 2" in wrong("fts")
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(reproduce, "planned", planned)
    missing = wrong("fts", "--data", tmp_path)
    assert "cifar-10-binary.tar.gz" in missing
    assert "Download it from" in missing
    assert "Expected own.npz in" in wrong("fts", "--data", tmp_path, "--images", "own.npz")
    with pytest.raises(ValueError, match="Expected paper"):
        planned("vit", "small")


def test_profiles():
    for paper in ("fts", "curvature"):
        for profile in ("small", "full"):
            runs = planned(paper, profile)
            assert len({run.key for run in runs}) == len(runs)
            assert {run.seed for run in runs} == set(range(5))
            assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    full = planned("fts", "full")
    for data, nets in FULL.items():
        for net in nets:
            kinds = {
                (run.loss, bool(run.penalty), bool(run.rho))
                for run in full
                if (run.data, run.net) == (data, net)
            }
            assert kinds == {(loss, False, False) for loss in LOSSES} | {
                ("ce", True, False),
                ("ce", False, True),
            }
    tiny = next(run for run in full if run.data == "tinyimagenet")
    assert (tiny.epochs, tiny.drops, tiny.batch_size) == (100, (40, 60), 64)
    assert (full[0].epochs, full[0].drops, full[0].rate, full[0].clip, full[0].reduction) == (
        *(350, (150, 250), 0.1, 2.0, "sum"),
    )
    ours = planned("curvature", "small", images="own.npz")
    assert {run.data for run in ours} == {"own.npz", "fashion-mnist"}
    assert sum(run.penalty > 0 for run in ours) == 5 * len(CONTROLS["trace penalty"])
    noisy = [run for run in ours if run.label_noise]
    assert {(run.net, run.rows, run.decay) for run in noisy} == {("linear", None, 0.0)}
    shared = {run.key for run in ours} & {run.key for run in planned("fts", "small", images="own.npz")}
    assert len(shared) == 50


PROGRAM = """
import sys, torch
torch.set_num_threads(1)
from focalcal.cli import main
from focalcal.experiments import reproduce
from focalcal.experiments.recipes import small
runs = [small("digits", "mlp", loss, 0, epochs=2, rows=100) for loss in ("ce", "focal-2")]
reproduce.planned = lambda *_, **__: runs
sys.exit(main(["reproduce", "curvature", "--out", sys.argv[1], "--workers", "1"]))
"""


@pytest.mark.slow
def test_torchruns_processes_share_each_network(tmp_path):
    own = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29623", "WORLD_SIZE": "2"}
    program = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    ranks = [
        subprocess.Popen(program, env=own | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    out = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert out[0].startswith("2 done")
    assert out[1] == ""
    for path in tmp_path.glob("*/run.json"):
        assert json.loads(path.read_text())["processes"] == 2
    assert Sweep(tmp_path).status().done == 2
