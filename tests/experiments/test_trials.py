"""Runs are tried before they are run: what is killed and goes on is the same, and what is not is said."""

import json
import signal
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal.experiments import trials  # noqa: E402
from focalcal.experiments.recipes import published  # noqa: E402
from focalcal.experiments.shapes import SHAPES, made_images  # noqa: E402
from focalcal.experiments.train import train  # noqa: E402
from focalcal.experiments.trials import Trial, read_trials, trials_table, try_out  # noqa: E402

CE = published("digits", "small_cnn", "ce")


@pytest.mark.slow
def test_each_kind_is_killed_and_goes_on_the_same(tmp_path, monkeypatch):
    children, told = [], []

    class Child(trials._Child):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            children.append(self.process)

    monkeypatch.setattr(trials, "_Child", Child)
    recipes = [replace(CE, penalty=1e-4), replace(CE, loss="adafocal")]
    exploding = replace(CE, rate=1e20, clip=1e20, loss="brier")
    other_seeds = [replace(recipe, seed=1) for recipe in recipes]
    found = try_out([*recipes, exploding, *other_seeds], tmp_path, progress=lambda *of: told.append(of))
    assert [trial.recipe for trial in found] == [*recipes, exploding]
    assert [trial.ok for trial in found] == [True, True, False]
    assert [child.exitcode for child in children[:6]] == 2 * [-signal.SIGKILL, 0, 0]
    assert found[2].reason.startswith("ValueError: Expected a finite loss, got nan at step 1")
    # 24,010 parameters and their momenta, float32, and what PyTorch writes beside them
    assert 8 * 24_010 < 1e6 * found[0].megabytes < 8 * 24_010 + 20_000
    assert told[0] == ("digits small_cnn ce + trace penalty", 1, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["trials.json"]
    assert read_trials(tmp_path) == found
    children.clear()
    assert try_out(recipes, tmp_path) == found[:2]
    assert not children
    assert len(read_trials(tmp_path)) == 3  # what is not asked for now stays


def test_what_passed_is_not_tried_again_and_what_failed_is(tmp_path, monkeypatch):
    tried, ok = [], {"ce": True, "brier": False}

    def noted(recipe, *_):
        tried.append(recipe)
        return Trial(recipe, ok[recipe.loss], 1.0, 2.0, 3.0, "" if ok[recipe.loss] else "it was late")

    monkeypatch.setattr(trials, "_tried", noted)
    recipes = [CE, replace(CE, loss="brier")]
    try_out(recipes, tmp_path)
    assert [trial.reason for trial in try_out(recipes, tmp_path)] == ["", "it was late"]
    assert tried == [*recipes, recipes[1]]
    try_out([replace(CE, rate=0.2)], tmp_path)  # another recipe under the same name
    assert len(tried) == 4
    ok["brier"] = True
    assert [trial.ok for trial in try_out(recipes[1:], tmp_path)] == [True]
    (tmp_path / "trials.json").write_text(json.dumps([{"ok": True}]))
    with pytest.raises(ValueError, match=r"^Expected the tries of try_out in .*trials.json, got 'recipe'"):
        try_out(recipes, tmp_path)


def test_the_table_says_what_failed():
    good = [
        Trial(replace(CE, loss=loss), True, seconds, 20.04, 1.0)
        for loss, seconds in (("ce", 3.0), ("dual", 5))
    ]
    bad = Trial(replace(CE, net="mlp", rho=0.1), False, 2.0, 0.0, 1.0, "it was late")
    assert trials_table([*good, bad]).splitlines()[2:] == [
        "| digits | small_cnn | 2 | 2 | 3.0 to 5.0 | 20.0 |",
        "| digits | mlp | 1 | 0 | 2.0 to 2.0 | 0.0 |",
        "",
        "- digits mlp ce + SAM: it was late",
    ]


def test_any_difference_is_found(tmp_path):
    recipe = replace(CE, loss="adafocal", rows=2, batch_size=2)
    for run in ("killed", "whole"):
        train(recipe, made_images("digits", 2), tmp_path / run, steps=1)
    assert trials._difference(tmp_path) == ""
    path = tmp_path / "killed" / "checkpoint.pt"
    for change in (
        lambda state: state["model"]["0.bias"][3].nextafter_(torch.tensor(9.0)),
        lambda state: state["optimizer"]["state"][0]["momentum_buffer"].neg_(),
        lambda state: state["loss"]["gamma"].mul_(2),
        lambda state: state["model"].pop("0.bias"),
        lambda state: state.update(step=2),
    ):
        state = torch.load(path, weights_only=True)
        kept = path.read_bytes()
        change(state)
        torch.save(state, path)
        assert trials._difference(tmp_path).startswith("1 of ")
        path.write_bytes(kept)


def test_nan_is_the_same_and_minus_zero_is_not():
    nan, zero = torch.tensor(float("nan")), torch.zeros(())
    assert trials._same(nan, nan.clone())
    assert not trials._same(zero, -zero)
    assert not trials._same(zero, zero.double())
    assert not trials._same(zero, 0.0)


@pytest.mark.slow
def test_images_of_a_file_and_a_run_of_one_epoch(tmp_path):
    recipe = replace(CE, data="mine.npz", epochs=1)
    with pytest.raises(ValueError, match="Pass what open_dataset returns"):
        try_out([recipe], tmp_path)
    (found,) = try_out([recipe], tmp_path, images=made_images(SHAPES["digits"], 10))
    assert found.ok
    assert found.hours == pytest.approx(trials.hours(recipe, made_images("digits", 10)))
