"""The report's tables and downloads: every metric, every class, and bins that read back as they were."""

import csv
import io
import json
import re
from html import unescape
from urllib.parse import unquote

import numpy as np
import pytest

from focalcal import evaluate, report
from focalcal.calibrators.temperature.profile import profile
from focalcal.intervals.estimate import Estimate
from focalcal.intervals.resample import estimate_gap_sum
from focalcal.reporting.classes import class_errors, one_class
from focalcal.reporting.downloads import COLUMNS, bins_csv, bins_json, harmless, kept_classes
from focalcal.reporting.landscape import contours, curves
from focalcal.reporting.names import shown
from focalcal.reporting.svg import outlines, round_factors, round_ticks
from focalcal.reporting.tables import metric_rows, segment_table
from focalcal.rows import as_rows
from focalcal.sums.bins import BinSums
from focalcal.verdicts.appraisal import Segment
from focalcal.verdicts.evaluation import Evaluation
from predictions import draw

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--",
    '=HYPERLINK("http:evil")',
    "\u202egnp.exe",
    'a\nb, "c"',
    "x" * 5000,
    "😀\x00",
    "\t@SUM(A1)",
    "\ud800",
    "-3",
]


@pytest.fixture(scope="module")
def ten():
    z, y = draw(3000, 10, temperature=2.0)
    w = np.random.default_rng(0).uniform(0.5, 2, len(y))
    return {"before": evaluate(y, z, w, input="logits"), "after": evaluate(y, z / 2, w, input="logits")}


def page(tmp_path, *args, **options):
    return report(tmp_path / "r.html", *args, **options).read_text(encoding="utf-8")


def embedded(text):
    return json.loads(
        re.search(r'<script type="application/json" id="focalcal-bins">(.*?)</script>', text)[1]
    )


def downloaded(text):
    link = unescape(re.search(r'href="data:text/csv;charset=utf-8,([^"]*)" download="bins.csv"', text)[1])
    return list(csv.reader(io.StringIO(unquote(link).removeprefix("\ufeff"), newline="")))


def test_the_embedded_bins_are_those_of_python(tmp_path, ten):
    document = embedded(page(tmp_path, ten, classes=HOSTILE))
    for name, evaluation in ten.items():
        assert document[name]["top"] == evaluation.bins.to_dict()
        assert len(document[name]["classes"]) == 10
        for k, found in enumerate(document[name]["classes"]):
            assert found.pop("class") == HOSTILE[k]
            assert found == one_class(evaluation.classwise, k).to_dict()


def test_the_csv_reads_back_as_the_bins(tmp_path, ten):
    table = downloaded(page(tmp_path, ten, classes=[f"c{k}" for k in range(10)]))
    assert tuple(table[0]) == COLUMNS
    for name, evaluation in ten.items():
        for of, bins in [("", evaluation.bins), ("c3", one_class(evaluation.classwise, 3))]:
            lines = [dict(zip(COLUMNS, line, strict=True)) for line in table[1:]]
            lines = [line for line in lines if (line["evaluation"], line["class"]) == (name, of)]
            full = bins.count > 0
            for column in (
                "count",
                "weight",
                "weight_squared",
                "confidence",
                "hit",
                "mean_confidence",
                "hit_rate",
            ):
                np.testing.assert_array_equal(
                    [float(line[column]) for line in lines], getattr(bins, column)[full]
                )
            np.testing.assert_array_equal([float(line["low"]) for line in lines], bins.edges[:-1][full])
            np.testing.assert_array_equal([float(line["high"]) for line in lines], bins.edges[1:][full])


def test_names_in_the_csv_are_quoted_and_no_formulas(tmp_path, ten):
    classes = {line[1] for line in downloaded(page(tmp_path, ten, classes=HOSTILE))}
    assert '\'=HYPERLINK("http:evil")' in classes
    assert "'\t@SUM(A1)" in classes
    assert 'a\nb, "c"' in classes
    assert "-3" in classes
    assert "x" * 5000 in classes


@pytest.mark.parametrize("name", ["=1", "+1+2", "-a", "@x", "\t=1", " =1", "＝1", "'=1", '"=1"', "\r=2", "-"])
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(name):
    assert harmless(name) == f"'{name}"


@pytest.mark.parametrize("name", ["cat", "-1", "+2.5e3", "3=4", "", "a@b"])
def test_what_is_no_formula_stays(name):
    assert harmless(name) == name


def test_a_thousand_classes_are_a_small_page(tmp_path):
    z, y = draw(3000, 1000, temperature=2.0)
    pair = {"before": evaluate(y, z, input="logits"), "after": evaluate(y, z / 2, input="logits")}
    names = [f"class number {k}" for k in range(1000)]
    text = page(tmp_path, pair, classes=names)
    assert len(text.encode()) < 1 << 20
    assert text.count("<svg") < 40
    table = re.search(r'<table id="classes".*?</table>', text, flags=re.DOTALL)[0]
    assert table.count("<tr>") == 1001
    assert all(f"<bdi>{name}</bdi>" in table for name in names)
    document = embedded(text)
    assert len(document["after"]["classes"]) == 6
    assert "of the 6 worst classes" in text
    worst = [one["class"] for one in document["after"]["classes"]]
    assert re.findall(r"<bdi>(class number \d+)</bdi>", table)[:6] == worst


def test_classes_come_by_what_is_sure(ten):
    names = [f"c{k}" for k in range(10)]
    classes = class_errors(ten, names)
    sums = ten["after"].classwise
    estimates = [estimate_gap_sum(one_class(sums, k), 3000, 0.95) for k in range(10)]
    lows = [estimates[k].low for k in classes.order]
    assert lows == sorted(lows, reverse=True)
    np.testing.assert_allclose(classes.last.value, [e.value for e in estimates])
    np.testing.assert_allclose(classes.last.gap, sums.gap.sum(axis=1))
    np.testing.assert_allclose(classes.rows, sums.hit.sum(axis=1))
    assert class_errors({"m": Evaluation(ten["after"].metrics, 5, 10, ten["after"].bins)}, names) is None


def test_all_classes_are_kept_up_to_a_bound(ten):
    classes = class_errors(ten, [str(k) for k in range(10)])
    assert kept_classes(classes, 6) == list(range(10))
    assert kept_classes(None, 6) == []
    assert json.loads(bins_json(ten, None, []))["after"] == {"top": ten["after"].bins.to_dict()}
    assert bins_csv(ten, None, []).count("\r\n") == 1 + sum(
        int((e.bins.count > 0).sum()) for e in ten.values()
    )


def test_class_names_must_be_as_many_as_classes(tmp_path, ten):
    with pytest.raises(
        ValueError, match=r"^Expected classes to name each of the 10 classes, got 2 names\. Pass"
    ):
        report(tmp_path / "r.html", ten, classes=["a", "b"])


def test_every_metric_is_shown_and_many_are_folded(tmp_path, ten):
    e = Estimate(0.1234, 0.01, 0.11, 0.13, 100, "test")
    extra = {"smooth_ece": e, "ks_error": e, "kernel_ece": e, "new_thing": e}
    more = {name: Evaluation(v.metrics | extra, v.n, v.n_classes, v.bins) for name, v in ten.items()}
    (few,), (first, folded) = metric_rows(ten), metric_rows(more)
    assert [row["title"] for row in few][:4] == [
        "Calibration error (ECE)",
        "Log loss (NLL)",
        "Brier score",
        "Accuracy",
    ]
    assert len(first) == 6
    assert {row["title"] for row in folded} >= {"KS error", "Kernel ECE", "new_thing"}
    (new,) = [row for row in folded if row["title"] == "new_thing"]
    assert new["cells"][0]["text"] == "0.1234"
    (smooth,) = [row for row in first if row["title"] == "Smooth ECE"]
    assert (smooth["cells"][0]["text"], smooth["cells"][0]["sub"]) == ("12.3%", "11.0% – 13.0%")
    text = page(tmp_path, more)
    assert "<details data-print><summary>4 more measures</summary>" in text
    assert "more measures" not in page(tmp_path, ten)


def test_a_metric_that_one_set_lacks_and_one_that_is_infinite(tmp_path, ten):
    metrics = dict(ten["after"].metrics)
    metrics["nll"] = Estimate(np.inf, np.nan, np.nan, np.inf, 100, "test")
    lacking = {name: e for name, e in metrics.items() if name != "brier"}
    pair = {"a": ten["before"], "b": Evaluation(lacking, 3000, 10, ten["after"].bins)}
    text = page(tmp_path, pair)
    assert "<b>inf</b><small>no interval</small>" in text
    assert "<b>–</b>" in text


def test_segments_show_their_test_when_there_is_one(ten):
    segments = [Segment(value, {"after": ten["after"]}) for value in ("de", None)]
    plain = segment_table(segments)
    assert plain["columns"] == ["Segment", "Rows", "Log loss", "ECE"]
    assert [row[0]["text"] for row in plain["rows"]] == ["de", "(none)"]
    object.__setattr__(segments[0], "p_value", 0.0123)
    object.__setattr__(segments[0], "adjusted_p_value", 0.0246)
    tested = segment_table(segments)
    assert tested["columns"][-1] == "Calibrated? p (Holm)"
    assert tested["rows"][0][-1] == {"text": "0.025", "sub": "alone 0.012", "sort": "0.0246"}
    assert tested["rows"][1][-1]["text"] == "–"
    assert segment_table([]) is None


def test_a_test_that_was_not_made_is_no_column(ten):
    segment = Segment("de", {"after": ten["after"]})
    for name in ("p_value", "adjusted_p_value"):
        object.__setattr__(segment, name, float("nan"))
    assert "Calibrated? p (Holm)" not in segment_table([segment])["columns"]


def test_a_negative_metric_has_a_minus_and_is_not_said_to_be_better_when_low(tmp_path, ten):
    gap = Estimate(-0.025, 0.01, -0.045, -0.005, 100, "test")
    more = {
        name: Evaluation(e.metrics | {"mean_gap": gap}, e.n, e.n_classes, e.bins) for name, e in ten.items()
    }
    text = page(tmp_path, more)
    assert "<b>−2.50%</b><small>−4.50% – −0.50%</small>" in text
    assert "every metric but accuracy and the mean gap, lower is better" in text
    assert "every metric but accuracy, lower is better" in page(tmp_path, ten)


def test_hostile_names_are_text_and_short(tmp_path, ten):
    text = page(tmp_path, ten, classes=HOSTILE, by=HOSTILE[0], segments=[Segment(HOSTILE[0], dict(ten))])
    assert text.count("<script") == 2
    assert "<!--" not in text
    assert "x" * 81 not in re.sub(r"<script.*?</script>|data:[^\"]*", "", text, flags=re.DOTALL)
    assert "\x00" not in text
    assert shown("") == "(empty)"
    assert shown("\ud800\x01") == "\ufffd\ufffd"


def test_the_profile_is_drawn(tmp_path, ten):
    z, y = draw(1000, 4, temperature=2.0)
    plain = profile(as_rows(z, y, None, "logits", None)[0])
    text = page(tmp_path, {"m": evaluate(y, z, input="logits")}, profile=plain)
    assert "T = 1, no change of the scores, lies outside the region these rows support." in text
    assert "Computed on 1,000 rows." in text
    assert 'class="optimum"' in curves(plain, "label")


def test_the_map_shows_the_region(tmp_path):
    from focalcal import FocalTemperatureScaling

    z, y = draw(2000, 4, temperature=2.0)
    calibrator = FocalTemperatureScaling().fit(z[:1000], y[:1000])
    found = profile(as_rows(z[1000:], y[1000:], None, "logits", None)[0], calibrator)
    assert 'class="region edged"' in contours(found, "label")
    text = page(tmp_path, {"m": evaluate(y, z, input="logits")}, calibrator=calibrator, profile=found)
    assert "Log loss over temperature and γ" in text
    assert "The fitted parameters lie" in text


def test_outlines_enclose_what_lies_below():
    x, y = np.linspace(-1, 1, 41), np.linspace(-2, 2, 61)
    bowl = x[:, None] ** 2 + y[None] ** 2
    (loop,) = outlines(x.tolist(), y.tolist(), bowl, 0.49)
    a, b = np.array(loop).T
    np.testing.assert_allclose(np.hypot(a, b), 0.7, atol=2e-3)
    assert abs(np.sum(a * np.roll(b, -1) - b * np.roll(a, -1)) / 2) == pytest.approx(np.pi * 0.49, rel=5e-3)
    assert len(outlines(x.tolist(), y.tolist(), x[:, None] * y[None], -0.3)) == 2
    assert outlines(x.tolist(), y.tolist(), bowl + 9, 1.0) == []
    (rim,) = outlines(x.tolist(), y.tolist(), bowl - 9, 1.0)  # everywhere below: around the whole grid
    assert np.ptp(np.array(rim), axis=0) == pytest.approx([2.05, 4 + 4 / 60], abs=0.02)


def test_ticks_are_round():
    assert round_ticks(0, 0.034) == pytest.approx([0, 0.01, 0.02, 0.03])
    assert round_ticks(-1, -0.98) == pytest.approx([-1, -0.995, -0.99, -0.985, -0.98])
    assert round_factors(0.3, 20) == [0.5, 1, 2, 5, 10, 20]
    assert round_factors(1, 3) == [1, 1.5, 2, 2.5, 3]


def test_the_bins_of_one_set_that_is_empty_in_places(tmp_path):
    result = evaluate([0, 0, 1, 1], [0.0, 0.0, 1.0, 1.0])
    assert isinstance(result.bins, BinSums)
    assert "Reliability diagram" in page(tmp_path, {"m": result})
