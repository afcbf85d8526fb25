"""What is summed over rows: in any cut, in any order, by any executor and from a file it is the same."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focalcal import (
    ece,
    evaluate,
    focal_score,
    ks_error,
    nll,
    open_scores,
    sharpness,
    smooth_ece,
    top_label_ece,
)
from focalcal.metrics import smooth
from focalcal.metrics.scores import FocalPass, SharpnessPass
from focalcal.rows import Block
from focalcal.sums.events import EventPass, PredictedPass, cells_of
from focalcal.sums.judging import prepare
from focalcal.verdicts.calibration_tests import SpiegelhalterPass
from predictions import draw, softmax

SUMS = {
    "focal": FocalPass("logits", 2.0, proper=False),
    "focal proper": FocalPass("logits", 2.0, proper=True),
    "sharpness": SharpnessPass("logits", "entropy"),
    "spiegelhalter": SpiegelhalterPass("logits"),
    "spiegelhalter of a class": SpiegelhalterPass("logits", 1),
}
KEPT = {
    "bins of a class": PredictedPass("logits", 15, 1),
    "bins of each predicted class": PredictedPass("logits", 15),
    "events": EventPass("logits"),
    "events of a class": EventPass("logits", 1),
}


def numbers(sums):
    """Return what sums hold as one array."""
    if hasattr(sums, "signed"):
        sums = cells_of(sums)
        return np.concatenate([np.ravel(column) for column in astuple(sums)])
    return np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in astuple(sums)])


@given(
    st.sampled_from([*SUMS, *KEPT]), st.integers(2, 50), st.integers(2, 5), st.integers(0, 999), st.booleans()
)
@settings(max_examples=50)
def test_blocks_in_any_cut_and_order(name, n, k, seed, weighted):
    z, y = draw(n, k, seed)
    rng = np.random.default_rng(seed)
    task = (SUMS | KEPT)[name]
    block = Block(z, y.astype(np.int64), rng.random(n) if weighted else None)
    cuts = np.unique([0, *rng.integers(1, n, 3), n])
    parts = [task(block.part(slice(a, b))) for a, b in pairwise(cuts)]
    forward, backward = parts[0], parts[-1]
    for part in parts[1:]:
        forward = forward + part
    for part in parts[-2::-1]:
        backward = backward + part
    whole = numbers(task(block))
    np.testing.assert_allclose(numbers(forward), whole, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(numbers(backward), whole, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", [*SUMS, *KEPT])
def test_they_travel_to_another_process(name):
    z, y = draw(30, 3)
    task, block = (SUMS | KEPT)[name], Block(z, y.astype(np.int64), None)
    np.testing.assert_array_equal(numbers(pickle.loads(pickle.dumps(task))(block)), numbers(task(block)))


@pytest.mark.parametrize("name", [*SUMS, *KEPT])
@pytest.mark.parametrize("workers", [1, 3])
def test_any_executor_gives_the_same_numbers(name, workers):
    z, y = draw(3000, 4)
    rows, _ = prepare(y, z, None, "logits", None)
    with ThreadPoolExecutor(workers) as pool:
        threaded = replace(rows, executor=pool).map_sum((SUMS | KEPT)[name])
    np.testing.assert_allclose(numbers(threaded), numbers(rows.map_sum((SUMS | KEPT)[name])), rtol=1e-10)


def test_scores_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(smooth, "_DRAWS", 2)
    z, y = draw(500, 3, 7)
    np.savez(tmp_path / "scores.npz", logits=z, labels=y)
    scores = open_scores(tmp_path / "scores.npz")
    for metric in (
        nll,
        top_label_ece,
        smooth_ece,
        ks_error,
        lambda *args, **options: ece(*args, of_class=2, **options),
        lambda *args, **options: ece(*args, norm="l2", binning="equal-mass", **options),
        lambda *args, **options: focal_score(*args, gamma=1.0, **options),
    ):
        ours = metric(scores)
        assert ours.value == pytest.approx(metric(y, z, input="logits").value, rel=1e-9)
        assert ours.n == 500
    assert sharpness(scores).value == pytest.approx(sharpness(softmax(z)).value, rel=1e-9)


@pytest.mark.parametrize("options", [{"cluster": [1, 2]}, {"ignore_index": 1}, {"by": ["a", "b"]}])
def test_a_file_holds_its_own_columns(tmp_path, options):
    z, y = draw(2, 2)
    np.savez(tmp_path / "scores.npz", logits=z, labels=y)
    with pytest.raises(
        TypeError,
        match=r"Expected scores of a file without ignore_index, cluster or by, which are for arrays. Choose",
    ):
        evaluate(open_scores(tmp_path / "scores.npz"), **options)
