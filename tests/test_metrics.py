"""The metrics against paper and scikit-learn, their laws, and that nothing is silently wrong."""

import json
import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

import focalcal
from focalcal import CalibrationWarning, accuracy, brier, classwise_ece, ece, evaluate, nll
from focalcal.rows import Block
from focalcal.sums.bins import equal_mass_edges
from focalcal.sums.judging import Pass
from focalcal.sums.scoring import score_probs
from predictions import DATA, draw, softmax, textbook_classwise, textbook_ece, textbook_top

NAMES = ("nll", "brier", "accuracy", "ece", "ece_equal_mass", "classwise_ece")
SINGLE = {
    "nll": nll,
    "brier": brier,
    "accuracy": accuracy,
    "ece": ece,
    "ece_equal_mass": lambda *args, **options: ece(*args, binning="equal-mass", **options),
    "classwise_ece": classwise_ece,
}
cases = st.tuples(st.integers(1, 60), st.integers(2, 6), st.integers(0, 10_000))


def values(y, p, w=None, **options):
    return {name: estimate.value for name, estimate in evaluate(y, p, w, **options).items()}


def same(a, b, tolerance=1e-12):
    assert a == pytest.approx(b, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("kind", ["probs", "logits"])
@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_paper_and_scikit_learn(kind, k, weighted):
    z, y = draw(400, k, seed=k)
    p = softmax(z)
    w = np.random.default_rng(0).random(400) if weighted else None
    got = values(y, p if kind == "probs" else z, w, input=kind)
    confidence, top = textbook_top(p)
    labels = list(range(k))
    assert got["nll"] == pytest.approx(log_loss(y, p, sample_weight=w, labels=labels), rel=1e-12)
    whole = brier_score_loss(np.eye(k)[y], p, sample_weight=w, scale_by_half=False)
    assert got["brier"] == pytest.approx(whole, rel=1e-12)
    assert got["accuracy"] == pytest.approx(accuracy_score(y, top, sample_weight=w), rel=1e-12)
    assert got["ece"] == pytest.approx(textbook_ece(confidence, top == y, w), rel=1e-12)
    assert got["classwise_ece"] == pytest.approx(textbook_classwise(p, y, w), rel=1e-12)
    edges = equal_mass_edges(confidence, w, 15)
    assert got["ece_equal_mass"] == pytest.approx(textbook_ece(confidence, top == y, w, edges), rel=1e-12)


def test_a_table_worked_by_hand():
    # confidences .5 .5 .75 .75, hits 1 0 1 0; column 0 holds .5 .5 .75 .25 for labels 0 1 0 0
    y, p = [0, 1, 0, 0], [[0.5, 0.5], [0.5, 0.5], [0.75, 0.25], [0.25, 0.75]]
    got = values(y, p)
    assert got["nll"] == pytest.approx((2 * math.log(2) + math.log(4 / 3) + math.log(4)) / 4)
    assert got["brier"] == pytest.approx((0.5 + 0.5 + 0.125 + 1.125) / 4)
    assert got["accuracy"] == 0.5
    assert got["ece"] == pytest.approx(0.25 / 2)
    assert got["classwise_ece"] == pytest.approx((0.75 + 0 + 0.25) / 4)


@pytest.mark.parametrize("name", NAMES)
def test_each_metric_alone_equals_its_entry(name):
    z, y = draw(300, 4)
    w = np.random.default_rng(1).random(300)
    whole = evaluate(y, z, w, input="logits", bins=10, level=0.9)[name]
    options = {} if name in ("nll", "brier", "accuracy") else {"bins": 10}
    assert SINGLE[name](y, z, w, input="logits", level=0.9, **options) == whole
    assert whole.level == 0.9


@given(cases)
@settings(max_examples=12)
def test_binary_scores_in_every_shape(case):
    n, _, seed = case
    z, y = draw(n, 2, seed)
    p = softmax(z)[:, 1]
    two = values(y, np.stack([1 - p, p], axis=1))
    same(values(y, p), two)
    same(values(y, p[:, None]), two)
    score = z[:, 1] - z[:, 0]
    same(values(y, score, input="logits"), values(y, np.stack([0 * score, score], 1), input="logits"))
    same(values(y, z, input="logits"), values(y, score[:, None], input="logits"), 1e-9)


@given(cases, st.randoms(use_true_random=False))
@settings(max_examples=12)
def test_rows_and_classes_permute(case, random):
    n, k, seed = case
    z, y = draw(n, k, seed)
    w = np.random.default_rng(seed).random(n)
    before = values(y, z, w, input="logits")
    rows = random.sample(range(n), n)
    same(values(y[rows], z[rows], w[rows], input="logits"), before)
    columns = np.array(random.sample(range(k), k))
    same(values(np.argsort(columns)[y], z[:, columns], w, input="logits"), before)


@given(cases)
@settings(max_examples=12)
def test_whole_weights_are_repeated_rows(case):
    n, k, seed = case
    z, y = draw(n, k, seed)
    w = np.random.default_rng(seed).integers(0, 4, n)
    w[0] = 1
    repeated = np.repeat(np.arange(n), w)
    same(values(y, z, w, input="logits"), values(y[repeated], z[repeated], input="logits"))


@given(cases)
@settings(max_examples=50)
def test_blocks_in_any_cut_and_order_equal_the_whole(case):
    n, k, seed = case
    z, y = draw(n, k, seed)
    rng = np.random.default_rng(seed)
    task, block = Pass("logits", 15, True, True), Block(z, y.astype(np.int64), rng.random(n))
    whole = task(block)
    cuts = np.unique(np.concatenate([[0, n], rng.integers(0, n + 1, 4)]))
    parts = [task(block.part(slice(a, b))) for a, b in pairwise(cuts)]
    forward = parts[0]
    for part in parts[1:]:
        forward = forward + part
    backward = parts[-1]
    for part in parts[-2::-1]:
        backward = part + backward
    for merged in (forward, backward):
        assert merged.nll.mean == pytest.approx(whole.nll.mean, rel=1e-12)
        assert merged.nll.stderr == pytest.approx(whole.nll.stderr, rel=1e-9, nan_ok=True)
        for sums in ("top", "classwise"):
            for field in ("count", "weight", "weight_squared", "confidence", "hit"):
                a, b = getattr(getattr(merged, sums), field), getattr(getattr(whole, sums), field)
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
        np.testing.assert_array_equal(np.concatenate(merged.confidences.signed), whole.confidences.signed[0])


def test_any_executor_gives_the_same_numbers():
    z, y = draw(5000, 7)
    serial = evaluate(y, z, input="logits").to_dict()["metrics"]
    for workers in (1, 3):
        with ThreadPoolExecutor(workers) as pool:
            threaded = evaluate(y, z, input="logits", executor=pool).to_dict()["metrics"]
        for name in NAMES:
            for key in ("value", "low", "high", "stderr"):
                assert threaded[name][key] == pytest.approx(serial[name][key], rel=1e-9)


def test_many_blocks_equal_the_textbook():
    z, y = draw(40_000, 10)  # more than one block
    p = softmax(z)
    got = values(y, z, input="logits")
    confidence, top = textbook_top(p)
    assert got["nll"] == pytest.approx(log_loss(y, p), rel=1e-12)
    assert got["ece"] == pytest.approx(textbook_ece(confidence, top == y), rel=1e-11)


def test_a_pass_travels_to_another_process():
    z, y = draw(50, 3)
    task, block = Pass("logits", bins=15, with_classes=True), Block(z, y, None)
    assert pickle.loads(pickle.dumps(task))(block).nll == task(block).nll


@pytest.mark.parametrize("kind", ["probs", "logits"])
@pytest.mark.parametrize("shape", ["columns", "one"])
def test_float32_equals_float64(kind, shape):
    z, y = draw(3000, 2 if shape == "one" else 8, seed=3)
    x = softmax(z) if kind == "probs" else z
    x = x[:, 1] if shape == "one" else x
    narrow = x.astype(np.float32)
    same(values(y, narrow, input=kind), values(y, narrow.astype(np.float64), input=kind), 1e-6)


def test_float16_logits_are_judged_as_the_numbers_they_are():
    z, y = draw(500, 5)
    narrow = z.astype(np.float16)
    same(values(y, narrow, input="logits"), values(y, narrow.astype(float), input="logits"), 1e-5)


def test_every_kind_of_table_and_label():
    z, y = draw(60, 3)
    p = softmax(z)
    expected = values(y, p)
    names = np.array(["ant", "bee", "cat"])
    same(values(pd.Series(names[y]), pd.DataFrame(p, columns=names)), expected)
    same(values(y.tolist(), p.tolist()), expected)
    same(values(names[y], p[:, ::-1], classes=names[::-1]), expected)
    same(values(y == 1, p[:, 1]), values((y == 1).astype(int), p[:, 1]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gap", [20.0, 40.0, 80.0])
def test_a_confident_hit_keeps_its_loss(dtype, gap):
    z = np.array([[gap, 0.0, 0.0]], dtype)
    assert nll([0], z, input="logits").value == pytest.approx(2 * math.exp(-gap), rel=1e-6, abs=0)
    if gap < 80:  # whose square is no float32
        u = 2 * math.exp(-gap)
        assert brier([0], z, input="logits").value == pytest.approx(1.5 * u**2, rel=1e-5, abs=0)
    assert nll([1], z, input="logits").value == pytest.approx(gap, rel=1e-6)


def test_huge_and_masked_logits():
    z = np.array([[6e4, -6e4, -np.inf], [0.0, 1.0, -np.inf]], np.float16)
    result = evaluate([1, 1], z, input="logits")
    assert result["nll"].value == pytest.approx((1.2e5 + math.log1p(math.exp(-1))) / 2, rel=1e-4)
    assert result["classwise_ece"].value < 1


def test_logits_within_0_and_1_are_logits_when_declared():
    z = np.array([[0.25, 0.75], [0.5, 0.5]])
    assert nll([1, 0], z, input="logits").value == pytest.approx(
        (math.log1p(math.exp(-0.5)) + math.log(2)) / 2
    )
    assert nll([1, 0], z).value == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_scaled_logits_stay_finite():
    z, y = draw(500, 4)
    for scale in (1e-2, 1e2, 1e4):
        result = evaluate(y, z * scale, input="logits")
        assert all(math.isfinite(e.value) for e in result.values())
    assert result["accuracy"].value == accuracy(y, z, input="logits").value


def test_log_probabilities_are_logits():
    z, y = draw(200, 4)
    same(values(y, np.log(softmax(z)), input="logits"), values(y, softmax(z)), 1e-10)


def test_confidence_one_as_the_textbook_has_it():
    assert ece([1, 1], [0.95, 1.0]).value == pytest.approx(0.025, abs=1e-15)
    assert ece([1, 1], np.array([0.95, 1.0], np.float32)).value == pytest.approx(0.025, abs=1e-7)
    assert ece([1, 1], np.array([0.95, 1.0], np.float16)).value == pytest.approx(0.025, abs=1e-3)


def test_edges_are_rounded_to_the_precision_of_the_scores():
    # .6 is an edge of 15 bins; float32(.6) lies above it and still belongs to the bin below, with .59
    p = np.array([0.6, 0.59], np.float32)
    together = ece([1, 0], p).value
    assert together == pytest.approx(abs(1.19 - 1) / 2, abs=1e-7)


def test_one_column_meets_the_edges_as_two_columns_do():
    # both round 1 − p to the precision of p before it is binned
    for bins in range(2, 40):
        p = (np.arange(bins + 1) / bins).astype(np.float32)
        y = np.zeros(len(p), np.intp)
        two = score_probs(np.stack([np.float32(1) - p, p], axis=1), y).confidence
        np.testing.assert_array_equal(score_probs(p, y).confidence, two)


def test_a_label_of_probability_zero_is_floored_with_a_warning():
    p = [[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]
    with pytest.warns(CalibrationWarning, match=r"1 of 3 rows give their label a probability below 1e-30"):
        value = nll([1, 0, 0], p).value
    assert value == pytest.approx((30 * math.log(10) + math.log(2)) / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nll([1, 0, 0], p, [0, 1, 1])  # without weight it does not matter
        assert ece([1, 0, 0], p).value == pytest.approx(0.5 / 3 + 1 / 3)
        brier([1, 0, 0], p)


def test_a_label_masked_by_its_logit_makes_the_loss_infinite_with_a_warning():
    z = [[0.0, -np.inf], [0.0, 1.0]]
    with pytest.warns(CalibrationWarning, match=r"1 of 2 rows have a logit of -inf at their label"):
        result = evaluate([1, 1], z, input="logits")
    assert result["nll"].value == np.inf
    assert math.isnan(result["nll"].stderr)
    assert math.isfinite(result["ece"].high)
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert json.loads(text)["metrics"]["nll"]["value"] is None


ERRORS = [
    ([[0.5, np.nan]], [0], {}, r"Expected y_prob without NaN, got NaN in row 0\. Drop or repair"),
    ([[1.2, -0.2]], [0], {}, r"Expected y_prob in \[0, 1\], got min=-0\.2, max=1\.2\. If these are logits"),
    ([[0.5, 0.5], [0.5, 0.6]], [0, 1], {}, r"row of y_prob to sum to 1 .*got 1\.1 in row 1"),
    ([[0.0, np.inf]], [0], {"input": "logits"}, r"Expected y_prob below \+inf"),
    ([[0.0, 0.0], [-np.inf, -np.inf]], [0, 1], {"input": "logits"}, r"only -inf in row 1"),
    (np.zeros((0, 3)), [], {}, r"at least one row"),
    ([[0.5, 0.5]], [0, 1], {}, r"inconsistent numbers of samples"),
    ([[0.5, 0.5]], [2], {}, r"Pass classes="),
    ([[0.5, 0.5]], ["c"], {"classes": ["a", "b"]}, r"Expected every label among the 2 classes"),
    ([[0.5, 0.5]], [0], {"input": "prob"}, r'Expected input="logits" or input="probs", got'),
    ([[0.5, 0.5]], [0], {"sample_weight": [-1.0]}, r"Expected sample_weight finite and >= 0"),
    ([[0.5, 0.5]], [0], {"sample_weight": [0.0]}, r"Expected some sample_weight above 0"),
    ([[0.5, 0.5]], [0], {"sample_weight": [1.0, 1.0]}, r"Expected sample_weight with one entry"),
]


@pytest.mark.parametrize(("p", "y", "options", "message"), ERRORS)
@pytest.mark.parametrize("metric", [evaluate, *SINGLE.values()])
def test_wrong_input_is_one_clear_error(metric, p, y, options, message):
    with pytest.raises(ValueError, match=message):
        metric(y, p, **options)


@pytest.mark.parametrize("metric", [ece, classwise_ece, evaluate])
@pytest.mark.parametrize("bins", [0, -1, 2.5, True])
def test_bins_are_a_whole_number(metric, bins):
    with pytest.raises(ValueError, match=r"Expected bins to be a whole number >= 1, got"):
        metric([0], [[0.5, 0.5]], bins=bins)


@pytest.mark.parametrize("metric", [evaluate, *SINGLE.values()])
def test_level_is_checked(metric):
    with pytest.raises(ValueError, match=r"Expected level between 0 and 1"):
        metric([0], [[0.5, 0.5]], level=95)


def test_unknown_binning():
    with pytest.raises(
        ValueError, match=r"Expected binning to be one of 'equal-width', 'equal-mass', got 'x'"
    ):
        ece([0], [[0.5, 0.5]], binning="x")


def test_a_bad_value_in_a_late_block_is_named_by_its_row():
    z, y = draw(60_000, 10)
    z[54_321, 3] = np.nan
    with pytest.raises(ValueError, match=r"NaN in row 54321"):
        evaluate(y, z, input="logits")


def test_the_scores_given_are_left_as_they_were():
    z, y = draw(100, 3)
    for x, kind in ((softmax(z), "probs"), (z, "logits"), (softmax(z)[:, :1], "probs")):
        before = x.copy()
        evaluate(np.minimum(y, x.shape[1] - 1) if x.shape[1] > 1 else y > 0, x, input=kind)
        np.testing.assert_array_equal(x, before)


def test_evaluation_is_a_mapping_with_a_table():
    z, y = draw(400, 3)
    result = evaluate(y, z, input="logits")
    assert tuple(result) == NAMES
    assert (len(result), result.n, result.n_classes) == (6, 400, 3)
    assert isinstance(result["ece"], focalcal.Estimate)
    lines = str(result).splitlines()
    assert lines[0].split() == ["value", "95%", "interval", "stderr"]
    assert lines[4].startswith("ECE")
    for number in ("value", "low", "high", "stderr"):
        assert f"{getattr(result['ece'], number):.4f}" in lines[4]
    assert lines[-1] == "n = 400, 3 classes"
    assert repr(result) == str(result)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["metrics"]["ece"]["value"] == result["ece"].value
    assert sum(plain["bins"]["count"]) == 400


def test_one_row_is_judged_and_says_what_it_cannot_know():
    result = evaluate([1], [0.7])
    assert result["nll"].value == pytest.approx(-math.log(0.7))
    assert all(math.isnan(e.stderr) for e in result.values())
    json.dumps(result.to_dict(), allow_nan=False)


def test_one_class_present():
    result = evaluate(np.zeros(50, int), np.full((50, 3), 1 / 3))
    assert result["accuracy"].value == 1
    assert result["ece"].value == pytest.approx(2 / 3)


@pytest.mark.slow
def test_real_scores_against_scikit_learn_and_paper():
    if not DATA.exists():
        pytest.skip("the score files in ../shared/data are not here")
    table = np.load(DATA / "cifar10_resnet20_akamaster.npz")
    z, y = table["logits"], table["labels"]
    p = softmax(z.astype(np.float64))
    got = values(y, z, input="logits")
    confidence, top = textbook_top(p)
    assert got["nll"] == pytest.approx(log_loss(y, p), rel=1e-6)
    assert got["ece"] == pytest.approx(textbook_ece(confidence, top == y), abs=2e-6)
    assert round(got["ece"], 4) == 0.0532  # the figure published with the files
    assert got["classwise_ece"] == pytest.approx(textbook_classwise(p, y), abs=2e-6)
