"""The report: complete, self-contained, escaped, and claiming nothing that the intervals do not support."""

import base64
import hashlib
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import focalcal.reporting
from focalcal import TemperatureScaling, ece, evaluate, report
from focalcal.intervals.estimate import Estimate
from focalcal.reporting.diagrams import chance_band
from focalcal.reporting.words import interval, verdict
from focalcal.sums.bins import BinSums
from focalcal.verdicts.evaluation import Evaluation
from predictions import compared, draw, softmax

VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = "<script>alert(1)</script>\"'&"


class Page(HTMLParser):
    """The page's elements and text; a tag left open or closed twice is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [
            (k, v) for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data", "srcset")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def evaluations():
    z, y = draw(3000, 4, temperature=2.5)
    return {"before": evaluate(y, z, input="logits"), "after": evaluate(y, z / 2.5, input="logits")}


class Calibrator:
    """What a report asks of a calibrator."""

    class diagnostics_:
        said = ()

        @classmethod
        def messages(cls):
            return list(cls.said)

    def __init__(self, *said, **changes):
        self.changes = changes
        self.diagnostics_ = type("D", (self.diagnostics_,), {"said": said})

    def to_dict(self):
        return {
            "schema": 1,
            "calibrator": "FocalTemperatureScaling",
            "parameters": {"temperature": 1.51234, "gamma": -0.25},
            "stderr": {"temperature": 0.0345, "gamma": None},
            "n_fit": 1234567,
            "classes": ["ant", "bee"],
            "input": "logits",
            "version": "0.1.0",
            "diagnostics": {},
        } | self.changes


def page_of(tmp_path, *args, **options):
    path = report(tmp_path / "report.html", *args, **options)
    return Page(path.read_text(encoding="utf-8"))


def test_every_number_of_the_evaluations_is_there_with_its_interval(tmp_path, evaluations):
    words = page_of(tmp_path, evaluations).words
    for evaluation in evaluations.values():
        for name in ("nll", "brier"):
            e = evaluation[name]
            assert f"{e.value:.4f} {e.low:.4f} – {e.high:.4f}" in words
        for name in ("ece", "ece_equal_mass", "accuracy"):
            e = evaluation[name]
            digits = 2 if e.value < 0.01 else 1
            assert f"{e.value:.{digits}%} {e.low:.{digits}%} – {e.high:.{digits}%}" in words
        full = evaluation.bins.count > 0
        for count, rate in zip(evaluation.bins.count[full], evaluation.bins.hit_rate[full], strict=True):
            assert re.search(rf"\b{int(count):,} [\d.]+% {rate:.1%} ", words)


def test_nothing_is_loaded_from_anywhere(tmp_path, evaluations):
    text = report(tmp_path / "r.html", evaluations, calibrator=Calibrator()).read_text(encoding="utf-8")
    page = Page(text)
    assert not {"link", "iframe", "object", "embed", "img"} & set(page.tags)
    assert all(value.startswith(("#", "data:text/csv;")) for _, value in page.links)
    assert "@import" not in text
    assert "url(" not in text
    assert "://" not in text


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(tmp_path, evaluations):
    text = report(tmp_path / "r.html", evaluations).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    allowed = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert allowed["default-src"] == allowed["base-uri"] == allowed["form-action"] == "'none'"
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert allowed[kind] == f"'sha256-{digest}'"
    assert " style=" not in text
    assert not re.search(r"\son\w+=", text)


def test_a_diagram_of_each_set_with_its_bands_and_its_bins(tmp_path, evaluations):
    text = report(tmp_path / "r.html", evaluations).read_text(encoding="utf-8")
    drawings = re.findall(
        r'<svg [^>]*aria-label="Reliability diagram, .*?</svg></svg>|$', text, flags=re.DOTALL
    )
    labels = re.findall(r'aria-label="Reliability diagram, (\w+): ECE ([^"]*)"', text)
    assert [name for name, _ in labels] == ["before", "after"]
    for (_, label), evaluation in zip(labels, evaluations.values(), strict=True):
        assert label.startswith(interval(evaluation["ece"]))
    assert drawings
    rows = [f"{int(count):,} rows between" for e in evaluations.values() for count in e.bins.count if count]
    for words in rows:
        assert words in text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]*)', text):
        assert target in ids


def test_the_band_of_chance_holds_what_chance_does():
    rng = np.random.default_rng(0)
    p = np.array([0.05, 0.3, 0.5, 0.9, 1.0])
    rows = np.array([40.0, 200.0, 7.0, 1000.0, 30.0])
    edges = np.array([0, 0.1, 0.4, 0.6, 0.95, 1])
    bins = BinSums(edges, rows, rows, rows, p * rows, p * rows)
    low, high = chance_band(bins, 0.95)
    rates = rng.binomial(rows.astype(int), p, size=(20_000, 5)) / rows
    inside = ((rates >= low) & (rates <= high)).mean(axis=0)
    assert (inside >= 0.95).all()
    assert inside[:4].max() < 0.995
    assert (low[4], high[4]) == (1, 1)


def test_the_same_page_twice(tmp_path, evaluations):
    first, second = (
        re.sub(r"Written [^<]*", "", report(tmp_path / name, evaluations).read_text(encoding="utf-8"))
        for name in ("a.html", "b.html")
    )
    assert first == second


def test_hostile_names_are_escaped(tmp_path, evaluations):
    calibrator = Calibrator(HOSTILE, calibrator=HOSTILE, classes=[HOSTILE, "b"], version=HOSTILE)
    page = page_of(
        tmp_path, {HOSTILE: evaluations["before"]}, calibrator=calibrator, title=HOSTILE, notes=[HOSTILE]
    )
    assert page.tags.count("script") == 2  # the bins and the page's own
    assert page.words.count("<script>alert(1)</script>") >= 6


def test_the_fit_its_parameters_and_its_remarks(tmp_path, evaluations):
    words = page_of(
        tmp_path, evaluations, calibrator=Calibrator("Beware of this."), notes=["Read from x."]
    ).words
    assert "T (temperature) 1.512 0.034" in words or "T (temperature) 1.512 0.035" in words
    assert "γ (gamma) −0.25 unknown" in words
    assert "Remarks on the fit Beware of this." in words
    assert "no remarks" not in words
    assert "fitted to 1,234,567 rows of logits with 2 classes" in words
    assert "divided by one temperature T before the softmax, and the focal calibration map" in words
    assert "Read from x." in words
    assert "ant bee" in words


def test_a_fit_without_remarks_says_so(tmp_path, evaluations):
    assert "The fit has no remarks" in page_of(tmp_path, evaluations, calibrator=Calibrator()).words


def test_a_thousand_classes_stay_readable(tmp_path, evaluations):
    names = [f"class {i}" for i in range(1000)]
    words = page_of(tmp_path, evaluations, calibrator=Calibrator(classes=names)).words
    assert "class 29 and 970 more" in words
    assert "class 30 " not in words


def test_a_real_calibrator(tmp_path):
    z, y = draw(2000, 3, temperature=2)
    scaling = TemperatureScaling().fit(z[:1000], y[:1000])
    raw, fitted = evaluate(y[1000:], softmax(z[1000:])), evaluate(y[1000:], scaling.predict_proba(z[1000:]))
    words = page_of(tmp_path, {"raw": raw, "scaled": fitted}, calibrator=scaling).words
    assert f"T (temperature) {scaling.temperature_:.4g}" in words
    assert "Accuracy is the same" in words


def estimated(value, low, high):
    return Estimate(value, 0.01, low, high, 1000, "test")


def with_ece(evaluation, ece):
    return Evaluation(evaluation.metrics | {"ece": ece}, 1000, 4, evaluation.bins)


@pytest.mark.parametrize(
    ("first", "second", "headline", "size"),
    [
        (
            (0.10, 0.08, 0.12),
            (0.03, 0.02, 0.04),
            "Calibration improved",
            "fall is 4.0 to 10.0 percentage points",
        ),
        (
            (0.03, 0.02, 0.04),
            (0.10, 0.08, 0.12),
            "Calibration got worse",
            "rise is 4.0 to 10.0 percentage points",
        ),
        (
            (0.10, 0.08, 0.12),
            (0.05, 0.02, 0.09),
            "No change in calibration is shown",
            "a fall by 10.0 or a rise by 1.0",
        ),
        (
            (0.10, 0.08, 0.12),
            (0.10, 0.08, 0.12),
            "No change in calibration is shown",
            "a fall by 4.0 or a rise by 4.0",
        ),
        (
            (0.05, 0.02, 0.04),
            (0.03, 0.02, 0.04),
            "No change in calibration is shown",
            "a fall by 2.0 or a rise by 2.0",
        ),
    ],
)
def test_the_verdict_claims_what_the_intervals_support(evaluations, first, second, headline, size):
    base = evaluations["before"]
    said = verdict({"a": with_ece(base, estimated(*first)), "b": with_ece(base, estimated(*second))})
    assert said.headline.startswith(headline)
    assert size in said.details[0]
    assert f"{first[0]:.1%} [{first[1]:.1%}, {first[2]:.1%}] (a)" in said.headline
    assert "1,000 rows" in said.headline


def test_the_verdict_on_one_set(evaluations):
    said = verdict({"model": evaluations["before"]})
    e = evaluations["before"]["ece"]
    assert (
        said.headline
        == f"The calibration error (ECE) is {e.value:.1%} [{e.low:.1%}, {e.high:.1%}], on 3,000 rows."
    )
    assert "over\u2011confident on the whole" in said.details[0]


def test_the_lean_is_claimed_only_where_shown():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.55, 0.95, 4000)
    for truth, lean in (
        (p, "neither over"),
        (0.9 * p, "over\u2011confident on"),
        (p**0.3, "under\u2011confident on"),
    ):
        y = (rng.random(4000) < truth).astype(int)
        assert lean in verdict({"m": evaluate(y, p)}).details[-1]


def test_an_error_that_chance_explains_is_called_so(evaluations):
    z, y = draw(2000, 4, temperature=1)
    calibrated = evaluate(y, z, input="logits")
    assert calibrated["ece"].low == 0
    said = verdict({"a": calibrated}).details[0]
    assert said.startswith(f"An error of {calibrated['ece'].value:.1%} is no evidence of miscalibration")
    errors = []
    for seed in range(100):
        z, y = draw(2000, 4, seed=seed, temperature=1)
        errors.append(ece(y, z, input="logits").value)
    shown = float(re.search(r"would show ([\d.]+)% on average", said)[1])
    assert shown == pytest.approx(100 * np.mean(errors), abs=0.2)
    assert "chance" not in " ".join(verdict({"a": evaluations["before"]}).details)


@pytest.mark.parametrize(
    ("low", "high", "headline", "size"),
    [
        (-0.05, -0.01, "Calibration improved", "fall is 1.0 to 5.0 percentage points (95% interval of the"),
        (0.01, 0.05, "Calibration got worse", "rise is 1.0 to 5.0 percentage points (95% interval of the"),
        (-0.05, 0.01, "No change in calibration is shown", "a fall by 5.0 or a rise by 1.0"),
    ],
)
def test_a_paired_difference_decides_where_it_is_given(evaluations, low, high, headline, size):
    base = evaluations["before"]
    pair = {
        "a": with_ece(base, estimated(0.06, 0.03, 0.09)),
        "b": with_ece(base, estimated(0.05, 0.02, 0.08)),
    }
    assert verdict(pair).headline.startswith("No change")
    said = verdict(pair, compared(pair, estimated((low + high) / 2, low, high)))
    assert said.headline.startswith(headline)
    assert size in said.details[0]
    assert "taken at their ends" not in said.details[0]


def test_accuracy_that_changes_is_said(evaluations):
    z, y = draw(3000, 4, seed=9)
    assert (
        "Accuracy went from"
        in verdict({"a": evaluations["before"], "b": evaluate(y, z, input="logits")}).details[0]
    )


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, evaluations, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fill_the_disk(target, text, **options):
        target.write_bytes(text[:100].encode())
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_text", fill_the_disk)
    with pytest.raises(OSError, match="disk full"):
        report(path, evaluations)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("wrong", [{}, [], None, "x"])
def test_something_to_report_is_needed(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"Expected a dict of names to evaluations, not empty, got"):
        report(tmp_path / "r.html", wrong)


def test_a_bare_evaluation_needs_a_name(tmp_path, evaluations):
    with pytest.raises(ValueError, match=r'got Evaluation\. Pass \{"before": evaluate'):
        report(tmp_path / "r.html", evaluations["before"])


def test_without_a_dependency_the_error_says_what_to_install(tmp_path, evaluations, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"^report needs jinja2: pip install 'focalcal\[plot\]'$"):
        report(tmp_path / "r.html", evaluations)
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_not_needed(tmp_path, evaluations, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report(tmp_path / "r.html", evaluations).exists()


def test_the_function_is_public():
    assert focalcal.reporting.report is report
