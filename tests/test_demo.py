"""The demo: deterministic, over-confident before and better after, and its commands are what it ran."""

import json
import os
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import log_softmax
from sklearn.datasets import load_digits

import focalcal
from focalcal import demo
from focalcal.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_whole_story(capsys):
    assert main(["demo", "--output-dir", "a b"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert sorted(os.listdir("a b")) == [
        "cal.json",
        "calibrated.parquet",
        "report.html",
        "test.parquet",
        "val.parquet",
    ]
    assert f"The report: {Path('a b/report.html').absolute()}" in out
    shown = [shlex.split(line[2:]) for line in out.splitlines() if line.startswith("$ ")]
    assert [command[1] for command in shown] == ["fit", "apply", "evaluate", "report"]
    # the commands are there to be copied: run one again, and it says the same
    calibrator = Path("a b/cal.json").read_text()
    assert main(shown[0][1:]) == 0
    assert Path("a b/cal.json").read_text() == calibrator
    capsys.readouterr()
    assert main([*shown[2][1:], "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    before, after = judged["before"]["metrics"], judged["after"]["metrics"]
    assert 0.85 < before["accuracy"]["value"] < 0.98
    assert after["ece"]["value"] < before["ece"]["low"]
    assert after["nll"]["value"] < before["nll"]["value"] - 0.1
    for metric in (before, after):
        assert (
            f"{metric['ece']['value']:.4f} [{metric['ece']['low']:.4f}, {metric['ece']['high']:.4f}]" in out
        )


def test_tables_look_like_a_users_own(tmp_path):
    val, test = demo.write_tables(tmp_path)
    first, second = pq.read_table(val), pq.read_table(test)
    assert first.column_names == ["image", "label", *(f"logit_{j}" for j in range(10))]
    images = np.r_[first["image"], second["image"]]
    assert len(np.unique(images)) == len(images) == 1797 - 150
    np.testing.assert_array_equal(load_digits().target[first["image"]], first["label"])
    os.makedirs(tmp_path / "again")
    assert pq.read_table(demo.write_tables(tmp_path / "again")[0]).equals(first)
    logits = np.stack([second[f"logit_{j}"] for j in range(10)], axis=1)
    confidence = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    assert confidence.mean() > (logits.argmax(axis=1) == second["label"].to_numpy()).mean() + 0.02


def test_the_gradient_is_that_of_the_cross_entropy():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(5, 64)), np.array([0, 3, 9, 3, 1])
    shapes = [*pairwise(demo._SIZES), *((width,) for width in demo._SIZES[1:])]
    point = [rng.normal(0, 0.1, shape) for shape in shapes]

    def loss(step):
        moved = [p + step * d for p, d in zip(point, direction)]
        z = X
        for W, b in zip(moved[:2], moved[3:5]):
            z = np.maximum(z @ W + b, 0)
        return -log_softmax(z @ moved[2] + moved[5], axis=1)[np.arange(5), y].mean()

    for _ in range(5):
        direction = [rng.normal(size=shape) for shape in shapes]
        slope = sum((g * d).sum() for g, d in zip(demo._gradient(point, X, y), direction))
        assert (loss(1e-6) - loss(-1e-6)) / 2e-6 == pytest.approx(slope, rel=1e-5)


def test_without_the_extras(capsys, monkeypatch):
    monkeypatch.setattr(demo, "_is_installed", lambda *modules: False)
    for module in ("duckdb", "pyarrow", "matplotlib", "jinja2"):
        monkeypatch.setitem(sys.modules, module, None)
    demo.show("plain")
    out, _ = capsys.readouterr()
    assert sorted(os.listdir("plain")) == ["cal.json", "calibrated.npz", "test.npz", "val.npz"]
    assert "$ focalcal fit plain/val.npz -o plain/cal.json" in out
    assert "pip install 'focalcal[plot]'" in out
    assert focalcal.load("plain/cal.json").n_fit_ == 800
