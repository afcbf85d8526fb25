"""What the report advises: each sentence where the numbers call for it, and none where they do not."""

import re
from dataclasses import replace

import numpy as np
import pytest

from focalcal import TemperatureScaling, evaluate
from focalcal.calibrators.temperature.profile import Place, Profile, profile
from focalcal.intervals.estimate import Estimate
from focalcal.reporting.advice import Facts, advise
from focalcal.reporting.classes import class_errors
from focalcal.reporting.views import profile_view
from focalcal.rows import as_rows
from focalcal.sums.bins import BinSums
from focalcal.verdicts.appraisal import Segment
from focalcal.verdicts.evaluation import Evaluation
from predictions import compared, draw

ARTEFACT = {"calibrator": "TemperatureScaling"}
FLAGS = ("--logits", "z*", "--label", "the label", "--where", "not val")


@pytest.fixture(scope="module")
def base():
    z, y = draw(3000, 4, temperature=2.5)
    return evaluate(y, z, input="logits")


def made(base, ece, nll=1.0, rows=1_000_000):
    """An evaluation with given errors, on so many rows that chance shows little."""
    metrics = base.metrics | {
        "ece": Estimate(*ece, 1000, "test"),
        "nll": Estimate(nll, 0.01, nll - 0.02, nll + 0.02, 1000, "test"),
    }
    scale = rows / base.bins.count.sum()
    sums = (getattr(base.bins, name) * scale for name in ("count", "weight", "weight_squared"))
    both = (getattr(base.bins, name) * scale for name in ("confidence", "hit"))
    return Evaluation(metrics, rows, 4, BinSums(base.bins.edges, *sums, *both))


def whats(facts):
    return [item.what for item in advise(facts)]


HIGH, LOW, NONE = (0.1, 0.01, 0.08, 0.12), (0.03, 0.005, 0.02, 0.04), (0.01, 0.005, 0.0, 0.02)


def test_an_error_without_a_calibrator_calls_for_a_fit_with_the_commands(base):
    (item,) = advise(Facts({"m": made(base, HIGH)}, flags=FLAGS))
    assert item.what == "Fit a calibrator and apply it"
    assert "at least 8.0% and the model is over‑confident." in item.why
    assert item.commands == [
        "focalcal fit VALIDATION --logits 'z*' --label 'the label' -o cal.json",
        "focalcal apply cal.json PREDICTIONS --logits 'z*' -o calibrated.parquet",
        "focalcal report TEST --logits 'z*' --label 'the label' --calibrator cal.json -o report.html",
    ]


def test_the_best_temperature_of_the_rows_is_told():
    z, y = draw(3000, 4, temperature=2.5)
    found = profile(as_rows(z, y, None, "logits", None)[0])
    (item,) = advise(Facts({"m": evaluate(y, z, input="logits")}, profile=found))
    low, high = found.interval
    assert (
        f"the best temperature is {found.optimum.temperature:.3g} (95% region {low:.3g} to {high:.3g})"
        in (item.why)
    )
    assert f"would be {found.optimum.loss:.4f} instead of {found.fitted.loss:.4f}" in item.why


def test_where_no_temperature_helps_none_is_proposed():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(8000, 3)) * 2
    tilted = np.exp(z + np.array([1.0, -0.5, -0.5]))
    y = (rng.random((8000, 1)) > (tilted / tilted.sum(axis=1, keepdims=True)).cumsum(axis=1)[:, :-1]).sum(1)
    evaluation = evaluate(y, z, input="logits")
    best = TemperatureScaling().fit(z, y).temperature_
    found = profile(as_rows(z / best, y, None, "logits", None)[0])
    names = ["a", "b", "c"]
    errors = class_errors({"m": evaluation}, names)
    facts = Facts({"m": made(evaluation, HIGH)}, classes=errors, profile=found)
    assert whats(facts) == ["Fit a calibrator and apply it"]  # it is over-confident, whatever T says
    centred = made(evaluation, HIGH)
    confidence = float(centred.bins.confidence.sum() / centred.bins.weight.sum())
    share = Estimate(confidence, 0.01, confidence - 0.01, confidence + 0.01, 1000, "test")
    agreeing = Evaluation(centred.metrics | {"accuracy": share}, centred.n, 3, centred.bins)
    first, second = advise(replace(facts, evaluations={"m": agreeing}))
    assert first.what == "Look beyond temperature scaling"
    assert "include 1: one temperature for all rows has nothing to mend" in first.why
    assert second.what == "Look at single classes"


def test_no_error_shown_is_nothing_to_do(base):
    assert whats(Facts({"m": made(base, NONE)})) == ["Nothing to mend is shown"]
    pair = {"a": made(base, NONE), "b": made(base, NONE)}
    assert whats(Facts(pair, artefact=ARTEFACT)) == ["Nothing to mend is shown"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (HIGH, NONE, "Use “b”"),
        (HIGH, LOW, "Use “b”, and know what is left"),
        (LOW, HIGH, "Keep “a”"),
        (HIGH, (0.09, 0.01, 0.07, 0.11), "Do not choose between “a” and “b” by their calibration error"),
    ],
)
def test_two_sets(base, before, after, said):
    assert whats(Facts({"a": made(base, before), "b": made(base, after)})) == [said]


def test_a_paired_difference_decides(base):
    pair = {"a": made(base, HIGH), "b": made(base, (0.09, 0.01, 0.07, 0.11))}
    fall = compared(pair, Estimate(-0.01, 0.002, -0.014, -0.006, 1000, "paired"))
    assert whats(Facts(pair, comparison=fall)) == ["Use “b”, and know what is left"]


def test_a_log_loss_that_rose_forbids_use(base):
    (item,) = advise(Facts({"a": made(base, HIGH, nll=1.0), "b": made(base, NONE, nll=1.1)}))
    assert item.what == "Do not put “b” into use on these numbers"
    assert "the log loss rose from 1.0000 to 1.1000" in item.why
    assert whats(Facts({"a": made(base, HIGH, nll=1.1), "b": made(base, NONE, nll=1.1)})) == ["Use “b”"]


def test_few_rows_are_said_to_be_few(base):
    items = advise(Facts({"m": made(base, NONE, rows=500)}))
    assert [item.what for item in items] == ["Nothing to mend is shown", "Judge on more rows"]
    needed = int(re.search(r"about ([\d,]+) rows are needed", items[1].why)[1].replace(",", ""))
    assert 500 < needed < 50_000
    assert whats(Facts({"m": made(base, NONE, rows=2 * needed)})) == ["Nothing to mend is shown"]
    assert "Judge on more rows" not in whats(
        Facts({"a": made(base, HIGH, rows=500), "b": made(base, LOW, rows=500)})
    )


def a_profile(statistic, n_fit=1000):
    """A profile whose fitted parameters are this far from the optimum."""
    taus, loss = np.log([1.0, 1.5, 2.0, 2.5]), np.array([1.2, 1.02, 1.0, 1.03])
    place = Place(1.5, 0.0, 1.0 + statistic / 2000)
    slope = np.gradient(loss, taus)
    return Profile(
        np.exp(taus), loss, slope, None, None, None, place, Place(2.0, 0.0, 1.0), 1000, 1000, 1000, n_fit, 1.0
    )


@pytest.mark.parametrize(
    ("statistic", "n_fit", "advised", "sentence"),
    [
        (1.0, 1000, False, "lie inside the region"),
        (5.0, 1000, False, "That is no sign of other data"),
        (20.0, 1000, True, "does not explain the distance (p = 0.002)"),
        (20.0, 0, False, "The fit did not minimise the log loss"),
    ],
)
def test_parameters_outside_the_region_call_for_a_fit_only_beyond_their_own_error(
    base, statistic, n_fit, advised, sentence
):
    found = a_profile(statistic, n_fit)
    pair = {"a": made(base, HIGH), "b": made(base, NONE)}
    facts = Facts(pair, profile=found, artefact=ARTEFACT, flags=FLAGS)
    assert whats(facts) == ["Fit again, on rows like these"] * advised + ["Use “b”"]
    assert sentence in " ".join(profile_view(found, ARTEFACT)["words"])
    if advised:
        assert advise(facts)[0].commands == [
            "focalcal fit VALIDATION --logits 'z*' --label 'the label' -o cal.json"
        ]


def classwise(off, n_classes=20, rows=4000):
    """Sums of classes of which the first `off` are predicted too often."""
    rng = np.random.default_rng(0)
    counts = np.full((n_classes, 2), rows / 2)
    truth = np.array([0.1, 0.8]) * np.ones((n_classes, 1))
    hits = rng.binomial(int(rows / 2), truth).astype(float)
    confidence = truth.copy()
    confidence[:off] += 0.05
    return BinSums(np.array([0, 0.5, 1.0]), counts, counts, counts, counts * confidence, hits)


def test_classes_are_named_only_beyond_chance(base):
    def facts(off, artefact=ARTEFACT, n_classes=20):
        pair = {"a": made(base, HIGH), "b": made(base, NONE)}
        sums = classwise(off, n_classes)
        pair["b"] = Evaluation(pair["b"].metrics, pair["b"].n, n_classes, pair["b"].bins, sums)
        names = [f"c{k}" for k in range(n_classes)]
        return Facts(pair, classes=class_errors(pair, names), artefact=artefact)

    assert whats(facts(0)) == ["Use “b”"]
    item = advise(facts(6))[1]
    assert item.what == "Look at single classes"
    assert re.search(
        r"^[67] of 20 classes .* where about 1 would by chance: c\d, c\d, c\d and [34] more", item.why
    )
    assert "What moves all classes alike, as one temperature does, cannot mend that" in item.why
    assert "One temperature" not in advise(facts(6, {"calibrator": "MatrixScaling"}))[1].why
    assert whats(facts(2, n_classes=2)) == ["Use “b”"]  # they mirror each other


def test_segments_by_their_test_or_by_their_intervals(base):
    def segments(errors, **p_values):
        made_of = [Segment(f"s{i}", {"b": made(base, error)}) for i, error in enumerate(errors)]
        for name, values in p_values.items():
            for segment, p in zip(made_of, values, strict=True):
                object.__setattr__(segment, name, p)
        return Facts({"a": made(base, HIGH), "b": made(base, NONE)}, segments=made_of)

    assert whats(segments([NONE] * 4)) == ["Use “b”"]
    assert whats(segments([NONE] * 19 + [LOW])) == ["Use “b”"]  # one of twenty is chance
    item = advise(segments([LOW, LOW, LOW, NONE]))[1]
    assert item.why.startswith(
        "3 of 4 segments are not calibrated, where about 0.2 would by chance: s0, s1, s2."
    )
    tested = segments([LOW, LOW, LOW, NONE], p_value=[0.01] * 4, adjusted_p_value=[0.04, 0.2, 1.0, 1.0])
    assert "1 of 4 segments are not calibrated, by a test that allows for their number (p < 0.05): s0." in (
        advise(tested)[1].why
    )
