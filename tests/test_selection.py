"""Choosing among calibrators by rows left out: the rule, its figures, and what it must never do."""

import warnings

import numpy as np
import pytest

from cases import drawn, load_scores, needs_data
from focalcal import (
    CalibrationWarning,
    FocalMatrixScaling,
    FocalTemperatureScaling,
    MixedTemperatureScaling,
    TemperatureScaling,
    fit_best,
    load,
    open_scores,
)


def confused(n, n_classes=6, seed=0):
    """Logits whose first two classes are swapped half-way and over-confident: more than a temperature."""
    z, y = drawn(n, n_classes, 2.0, seed)
    z[:, 0] += 1.5 * z[:, 1]
    return 2 * z, y


def nll(cal, z, y):
    return -cal.transform(z)[np.arange(len(y)), y].mean()


def test_a_temperature_is_all_that_a_temperature_needs():
    z, y = drawn(3000, 5, 2.0, seed=1)
    best = fit_best(2.5 * z, y)
    assert type(best) is TemperatureScaling
    assert best.temperature_ == TemperatureScaling().fit(2.5 * z, y).temperature_


def test_class_structure_is_found_and_better_on_new_rows():
    z, y = confused(3000)
    new, of_new = confused(3000, seed=9)
    best = fit_best(z, y)
    assert type(best) is FocalMatrixScaling
    np.testing.assert_array_equal(best.transform(z), FocalMatrixScaling().fit(z, y).transform(z))
    assert nll(best, new, of_new) < nll(TemperatureScaling().fit(z, y), new, of_new) - 0.1


def test_the_ranking_is_of_paired_losses_of_rows_left_out():
    z, y = confused(600)
    best = fit_best(z, y)
    names = [one.name for one in best.ranking_]
    assert sorted(names) == ["FocalMatrixScaling", "MixedTemperatureScaling"]
    values = [one.loss.value for one in best.ranking_]
    assert values == sorted(values)
    first = best.ranking_[0]
    assert (first.excess.value, first.excess.stderr) == (0, 0)
    for one in best.ranking_:
        assert one.excess.value == pytest.approx(one.loss.value - first.loss.value, abs=1e-12)
        assert one.loss.n == 600
        assert one.loss.low < one.loss.value < one.loss.high
    assert [one.name for one in best.ranking_ if one.chosen] == [type(best).__name__]


def test_losses_are_those_of_fits_without_the_rows():
    from focalcal.calibrators.held_out import held_out
    from focalcal.calibrators.matrix.shrinkage import folds
    from focalcal.calibrators.objective import Objective
    from focalcal.rows import as_rows

    z, y = confused(1200)
    fold = folds(held_out(Objective(as_rows(z, y, None, "logits", None)[0])), 5)
    losses = np.empty(1200)
    for k in range(5):
        cal = TemperatureScaling().fit(z[fold != k], y[fold != k])
        losses[fold == k] = -cal.transform(z[fold == k])[np.arange((fold == k).sum()), y[fold == k]]
    found = {one.name: one for one in fit_best(z, y).ranking_}["TemperatureScaling"]
    assert found.loss.value == pytest.approx(losses.mean(), rel=1e-9)
    assert found.loss.stderr == pytest.approx(losses.std() / np.sqrt(1200), rel=1e-6)


def test_the_simplest_within_one_standard_error_is_taken():
    z, y = drawn(500, 4, 2.0, seed=3)
    either = [MixedTemperatureScaling(), TemperatureScaling()]
    assert type(fit_best(z, y, methods=either)) is MixedTemperatureScaling
    assert type(fit_best(z, y, methods=either[::-1])) is TemperatureScaling


@pytest.mark.parametrize("seed", range(8))
def test_few_rows_do_not_mislead(seed):
    """Calibrated scores of 60 rows: whatever is chosen is hardly worse than temperature scaling."""
    z, y = drawn(60, 3, 1.5, seed)
    new, of_new = drawn(4000, 3, 1.5, seed + 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        assert nll(fit_best(z, y), new, of_new) < nll(TemperatureScaling().fit(z, y), new, of_new) + 0.03


def test_fewer_than_twenty_rows_take_the_first():
    z, y = drawn(19, 2, 2.0, seed=5)
    best = fit_best(z, y)
    assert (type(best), best.share_) == (MixedTemperatureScaling, 1 / 80)
    assert best.ranking_ == []
    many = np.full(19, 1000 / 19)
    assert type(fit_best(z, y, many)) is TemperatureScaling


def forest(n, seed):
    """Return logits of which a few would be as sure and wrong as can be: that many rows show none."""
    z, y = drawn(n, 4, 2.0, seed)
    few = np.random.default_rng(seed).random(n) < 0.01
    z[few, (y[few] + 1) % 4] += 200
    return z, y, few


def test_few_rows_do_not_show_that_no_row_is_sure_and_wrong():
    z, y, few = forest(120, seed=2)
    z, y = z[~few], y[~few]
    new, of_new, _ = forest(5000, seed=3)
    best, plain = fit_best(z, y), TemperatureScaling().fit(z, y)
    assert (best.temperature_, best.share_) == (plain.temperature_, 1 / (4 * len(z) + 4))
    assert nll(best, new, of_new) < nll(plain, new, of_new) - 0.5
    assert nll(best, z, y) < nll(plain, z, y) + best.share_


def test_the_unit_of_the_weights_is_no_number_of_rows():
    z, y = drawn(1200, 4, 2.0, seed=1)
    weight = np.random.default_rng(0).uniform(0.5, 1.5, 1200)
    best = fit_best(z, y, weight / weight.sum())
    assert type(best) is TemperatureScaling
    for unit in (1 / 300, 1e-100):
        few = fit_best(z[:300], y[:300], weight[:300] * unit)
        assert 1 / (4 * 300 + 4) < few.share_ < 1 / (4 * 260 + 4)


def test_weights_and_the_order_of_rows():
    z, y = confused(500)
    weight = np.random.default_rng(0).integers(0, 3, 500)
    best = fit_best(z, y, weight)
    order = np.random.default_rng(1).permutation(500)
    again = fit_best(z[order], y[order], weight[order])
    alone = fit_best(z[weight > 0], y[weight > 0], weight[weight > 0])
    for other in (again, alone):
        assert type(other) is type(best)
        np.testing.assert_allclose(other.predict_proba(z), best.predict_proba(z), atol=1e-4)
    assert best.n_fit_ == 500


def test_names_masks_probabilities_and_tables():
    pd = pytest.importorskip("pandas", reason="the table is pandas'")
    z, y = confused(300, 4)
    z[::7, 3] = np.where(y[::7] == 3, z[::7, 3], -np.inf)
    names = np.array(["a", "b", "c", "d"])
    table = pd.DataFrame(z, columns=list("wxyz"))
    best = fit_best(table, names[y])
    assert best.classes_.tolist() == names.tolist()
    assert (best.predict_proba(table)[np.isneginf(z)] == 0).all()
    with pytest.raises(ValueError, match="feature names"):
        best.predict_proba(table[list("zyxw")])
    p = TemperatureScaling().fit(z, y).predict_proba(z)
    assert fit_best(p, y, input="probs").input == "probs"


def test_a_choice_survives_its_file(tmp_path):
    z, y = confused(300)
    best = fit_best(z, y)
    best.save(tmp_path / "best.json")
    again = load(tmp_path / "best.json")
    assert again.ranking_ == best.ranking_
    np.testing.assert_array_equal(again.transform(z), best.transform(z))


@pytest.mark.parametrize("methods", [[], "auto", [TemperatureScaling], [1], None.__class__])
def test_candidates_that_are_none_are_refused(methods):
    z, y = drawn(50, 3, 1.0, seed=0)
    with pytest.raises(ValueError, match=r"Expected methods as unfitted calibrators"):
        fit_best(z, y, methods=methods)


def test_labels_are_needed():
    with pytest.raises(ValueError, match="requires y"):
        fit_best([[1.0, 2.0]] * 30)


def test_candidates_are_not_touched():
    z, y = drawn(100, 3, 1.0, seed=0)
    mine = FocalTemperatureScaling(gamma_bounds=(0, 5))
    fit_best(z, y, methods=[mine])
    assert not hasattr(mine, "gamma_")


@needs_data
def test_real_scores_with_class_structure():
    scores, labels, kind, chosen = load_scores("tinyimagenet_squeezenet_songhan.npz")
    best = fit_best(scores[chosen], labels[chosen], input=kind)
    ts = TemperatureScaling(input=kind).fit(scores[chosen], labels[chosen])
    assert nll(best, scores[~chosen], labels[~chosen]) < 0.85 * nll(ts, scores[~chosen], labels[~chosen])


def test_large_data_are_compared_on_a_part(monkeypatch):
    from focalcal.calibrators import selection

    z, y = drawn(12000, 3, 2.0, seed=5)
    whole = TemperatureScaling().fit(z, y).temperature_
    monkeypatch.setattr(selection, "_ENOUGH", 6000)
    best = fit_best(z, y)
    assert best.ranking_[0].loss.n < 3000
    assert type(best) is TemperatureScaling
    assert (best.n_fit_, best.temperature_) == (12000, whole)
    structured = fit_best(*confused(12000))
    assert type(structured) is FocalMatrixScaling
    assert structured.n_fit_ < 3000


def test_a_matrix_needs_errors_to_learn_from():
    z, y = confused(400, 3)
    right = z.argmax(axis=1) == y
    for errors, names in ((9, 1), (10, 2)):
        rows = np.concatenate([np.flatnonzero(right)[:150], np.flatnonzero(~right)[:errors]])
        assert len(fit_best(z[rows], y[rows]).ranking_) == names
    # with a share of the uniform distribution, all that is right would have to be as sure as can be
    assert FocalMatrixScaling().fit(z[rows], y[rows]).uniform_share_ == 0
    with pytest.warns(CalibrationWarning, match="At a bound: temperature"):
        MixedTemperatureScaling().fit(z[rows], y[rows])


def prompts(questions, each, n_classes=10, seed=0):
    """Questions asked in several ways, whose logits hardly differ: few independent rows."""
    z, y = confused(questions, n_classes, seed)
    rng = np.random.default_rng(seed)
    z = np.repeat(z, each, axis=0)
    order = rng.permutation(len(z))
    cluster = np.repeat(np.arange(questions), each)
    return (z + 0.01 * rng.normal(size=z.shape))[order], np.repeat(y, each)[order], cluster[order]


def test_clusters_are_left_out_together_and_counted_once():
    z, y, cluster = prompts(120, 4)
    names = np.array([f"q{k:03}" for k in range(120)])[cluster]
    best = fit_best(z, y, cluster=names)
    fold = np.random.default_rng(0).permutation(120)[cluster] % 5
    losses = np.empty(480)
    for k in range(5):
        cal = MixedTemperatureScaling(share=1 / (4 * 480 + 4)).fit(z[fold != k], y[fold != k])
        losses[fold == k] = -cal.transform(z[fold == k])[np.arange((fold == k).sum()), y[fold == k]]
    found = {one.name: one for one in best.ranking_}["MixedTemperatureScaling"]
    assert found.loss.value == pytest.approx(losses.mean(), rel=1e-9)
    sums = np.bincount(cluster, losses - losses.mean())
    assert found.loss.stderr == pytest.approx(np.sqrt(sums @ sums) / 480, rel=1e-6)
    assert found.loss.stderr > 1.9 * losses.std() / np.sqrt(480)


def test_clusters_that_are_told_promise_what_new_ones_keep():
    z, y, cluster = prompts(150, 8)
    new, of_new, _ = prompts(3000, 1, seed=1)
    only = [FocalMatrixScaling()]
    told, untold = fit_best(z, y, methods=only, cluster=cluster), fit_best(z, y, methods=only)
    assert told.penalty_ > untold.penalty_
    assert nll(told, new, of_new) < nll(untold, new, of_new) - 0.1
    promised = told.ranking_[0].loss
    assert abs(promised.value - nll(told, new, of_new)) < 3 * promised.stderr
    assert untold.ranking_[0].loss.value < nll(untold, new, of_new) - 0.1


def test_each_row_a_cluster_of_its_own_has_the_errors_of_rows():
    z, y = confused(400)
    found, plain = fit_best(z, y, cluster=np.arange(400)).ranking_, fit_best(z, y).ranking_
    assert [one.name for one in found] == [one.name for one in plain]
    for one, other in zip(found, plain, strict=True):
        assert one.loss.stderr == pytest.approx(other.loss.stderr, rel=0.1)


def test_clusters_of_a_part_stay_clusters(monkeypatch):
    from focalcal.calibrators import selection

    z, y = confused(9000)
    monkeypatch.setattr(selection, "_ENOUGH", 6000)
    best = fit_best(z, y, cluster=np.arange(9000) // 3)
    alone = fit_best(z, y)
    assert best.ranking_[0].loss.n == alone.ranking_[0].loss.n < 2000
    assert best.ranking_[0].loss.stderr != alone.ranking_[0].loss.stderr


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (np.arange(50) % 4, "Expected at least 5 clusters, so that each fold has one, got 4"),
        (np.arange(49), "cluster"),
        (np.array(["a", 1] * 25, object), "Expected cluster of one kind"),
        (np.ones((50, 2)), "cluster"),
    ],
)
def test_clusters_that_are_none_are_refused(cluster, message):
    z, y = drawn(50, 3, 1.0, seed=0)
    with pytest.raises(ValueError, match=message):
        fit_best(z, y, cluster=cluster)


def test_a_file_has_no_clusters(tmp_path):
    z, y = drawn(50, 3, 1.0, seed=0)
    np.savez(tmp_path / "scores.npz", logits=z, labels=y)
    with pytest.raises(TypeError, match="Expected scores of a file without"):
        fit_best(open_scores(tmp_path / "scores.npz"), cluster=np.arange(50))


def test_a_matrix_of_too_many_classes_is_no_candidate(monkeypatch):
    from focalcal.calibrators import selection

    z, y = confused(600)
    monkeypatch.setattr(selection, "_MOST_CLASSES", 5)
    names = {one.name for one in fit_best(z, y).ranking_}
    assert names == {"MixedTemperatureScaling", "FocalTemperatureScaling"}
