"""Before, after and segments in one pass: the numbers of judging each of them alone."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import focalcal._validate
from focalcal import FocalTemperatureScaling, evaluate, open_scores
from focalcal.sums.judging import Pass
from focalcal.verdicts.appraisal import JudgeAll, appraise
from predictions import draw

K, N = 3, 4000
LANGUAGES = np.array(["de", "en", None, "fr"], dtype=object)


@pytest.fixture(scope="module")
def data():
    z, y = draw(N, K, temperature=2)
    language = np.random.default_rng(0).choice(4, N, p=[0.5, 0.3, 0.15, 0.05])
    z[language == 1] *= 2
    return z, y, language


@pytest.fixture(scope="module")
def calibrator(data):
    return FocalTemperatureScaling().fit(data[0], data[1])


@pytest.fixture(params=["memory", "stream"])
def path(tmp_path, data, request, monkeypatch):
    if request.param == "stream":
        monkeypatch.setattr("focalcal.io.sources.IN_MEMORY", 0)
        monkeypatch.setattr("focalcal.io.scan.BATCH_ELEMENTS", 1 << 12)
    monkeypatch.setattr("focalcal.verdicts.appraisal._PIECE", 1 << 10)
    z, y, language = data
    columns = {f"z{j}": z[:, j] for j in range(K)}
    others = {"y": y, "language": LANGUAGES[language].tolist(), "year": 2020 + language, "w": (y + 1) / 2}
    pq.write_table(pa.table(columns | others), tmp_path / "a.parquet", row_group_size=1500)
    return tmp_path / "a.parquet"


def agree(found, expected):
    for name, estimate in found.items():
        for end in ("value", "stderr", "low", "high"):
            assert getattr(estimate, end) == pytest.approx(
                getattr(expected[name], end), rel=1e-9, abs=1e-12, nan_ok=True
            )


@pytest.mark.parametrize("weighted", [False, True])
def test_each_number_is_that_of_judging_alone(path, data, calibrator, weighted):
    z, y, language = data
    w = (y + 1) / 2 if weighted else None
    options = {"weight": "w"} if weighted else {}
    scores = open_scores(path, logits="z*", label="y", by="language", **options)
    found = appraise(scores, calibrator)
    after = calibrator.transform(z)
    agree(found.evaluations["before"], evaluate(y, z, w, input="logits"))
    agree(found.evaluations["after"], evaluate(y, after, w, input="logits"))
    assert {one.value for one in found.segments} == set(LANGUAGES)
    for one in found.segments:
        rows = language == list(LANGUAGES).index(one.value)
        assert one.n == rows.sum()
        for name, logits in (("before", z), ("after", after)):
            part = evaluate(y[rows], logits[rows], None if w is None else w[rows], input="logits")
            assert sorted(one.evaluations[name]) == ["accuracy", "brier", "ece", "nll"]
            agree(one.evaluations[name], part)


def test_the_surest_error_comes_first(path):
    found = appraise(open_scores(path, logits="z*", label="y", by="language"))
    ends = [one.evaluations["before"]["ece"].low for one in found.segments]
    assert ends == sorted(ends, reverse=True)
    assert found.segments[0].value == "en"


def test_numbers_conditions_and_plain_values(path):
    scores = open_scores(path, logits="z*", label="y", by="year", where="year < 2022")
    found = appraise(scores)
    assert sorted(one.value for one in found.segments) == ["2020", "2021"]
    document = found.to_dict()
    assert document["n"] == found.n == sum(one["n"] for one in document["segments"])
    assert document["segments"][0]["before"]["nll"]["value"] > 0
    assert "segments" not in appraise(open_scores(path, logits="z*", label="y")).to_dict()


def test_npz(tmp_path, data):
    z, y, language = data
    year = np.where(language == 2, np.nan, 2020.0 + language)
    np.savez(tmp_path / "a.npz", logits=z, y=y, year=year, ok=language > 0, keep=np.arange(N) % 2)
    found = appraise(open_scores(tmp_path / "a.npz", by="year", where="keep = 1"))
    rows = {
        None if np.isnan(v) else str(v): int(n) for v, n in zip(*np.unique(year[1::2], return_counts=True))
    }
    assert {one.value: one.n for one in found.segments} == rows
    found = appraise(open_scores(tmp_path / "a.npz", by="ok"))
    assert sorted(one.value for one in found.segments) == ["false", "true"]


def test_too_many_segments(path, monkeypatch):
    monkeypatch.setattr(focalcal._settings, "MAX_SEGMENTS", 3)
    scores = open_scores(path, logits="z*", label="y", by="language")
    with pytest.raises(ValueError, match=r"at most 3 different values .*--by\), got more: .*, …. Name"):
        appraise(scores)


def test_segments_of_one_row_and_of_no_weight(tmp_path):
    z, y = draw(6, K)
    table = {
        "z0": z[:, 0],
        "z1": z[:, 1],
        "z2": z[:, 2],
        "y": y,
        "w": [1.0, 0, 0, 2, 1, 1],
        "s": list("abbccc"),
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    found = appraise(open_scores(tmp_path / "a.parquet", logits="z*", label="y", weight="w", by="s"))
    assert sorted((one.value, one.n) for one in found.segments) == [("a", 1), ("c", 3)]
    one = next(one for one in found.segments if one.value == "a")
    agree(one.evaluations["before"], evaluate(y[:1], z[:1], input="logits"))


def test_no_copy_of_all_scores_is_calibrated(calibrator, data):
    seen = []

    class Watched:
        classes_ = calibrator.classes_

        def transform(self, X):
            seen.append(len(X))
            return calibrator.transform(X)

    class Held:
        input = "logits"

        def rows(self, classes=None, executor=None):
            from focalcal.rows import ArrayRows

            return ArrayRows(np.tile(data[0], (100, 1)), np.tile(data[1], 100), None, "logits"), np.arange(K)

    found = appraise(Held(), Watched())
    assert found.n == sum(seen) == 100 * N
    assert max(seen) <= (1 << 18) // K


def test_the_task_travels(calibrator):
    task = pickle.loads(pickle.dumps(JudgeAll(Pass("logits", 15), calibrator)))
    assert task.calibrator.temperature_ == calibrator.temperature_
