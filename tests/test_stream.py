"""Tables that are read anew for every pass: the same digits as in memory, and the same errors."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import focalcal
from focalcal import FocalTemperatureScaling, TemperatureScaling, evaluate, open_scores
from focalcal._validate import CalibrationWarning
from focalcal.io.stream import TableRows
from predictions import draw

K = 4


@pytest.fixture
def streamed(monkeypatch):
    """Let every table be too large for memory, and its batches small."""
    monkeypatch.setattr("focalcal.io.sources.IN_MEMORY", 0)
    monkeypatch.setattr("focalcal.io.scan.BATCH_ELEMENTS", 1 << 12)


def table(n=6000, names="abcd", seed=0, dtype=np.float32):
    z, y = draw(n, K, seed)
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            **{f"z_{name}": z[:, j].astype(dtype) for j, name in enumerate(names)},
            "y": np.array(list(names))[y],
            "w": rng.random(n),
            "year": np.arange(n) % 7 + 2020,
        }
    )


def write(path, rows, **options):
    if str(path).endswith(".csv"):
        pa.csv.write_csv(rows, path)
    else:
        pq.write_table(rows, path, row_group_size=700, **options)
    return path


@pytest.fixture(params=[".parquet", ".csv"])
def path(tmp_path, request):
    return write(tmp_path / f"a{request.param}", table())


def same(a, b):
    assert {name: tuple(vars(e).values())[:4] for name, e in a.items()} == {
        name: pytest.approx(tuple(vars(e).values())[:4], rel=1e-9, abs=1e-13) for name, e in b.items()
    }


@pytest.mark.parametrize("options", [{}, {"weight": "w"}, {"where": "year > 2021"}])
@pytest.mark.parametrize("make", [TemperatureScaling, FocalTemperatureScaling])
def test_the_same_fit_as_in_memory(path, monkeypatch, options, make):
    inside = make().fit(open_scores(path, logits="z_*", label="y", **options))
    monkeypatch.setattr("focalcal.io.sources.IN_MEMORY", 0)
    monkeypatch.setattr("focalcal.io.scan.BATCH_ELEMENTS", 1 << 12)
    scores = open_scores(path, logits="z_*", label="y", **options)
    outside = make().fit(scores)
    assert "_held" not in vars(scores)
    assert outside.temperature_ == pytest.approx(inside.temperature_, rel=1e-12)
    assert outside.stderr_ == pytest.approx(inside.stderr_, rel=1e-9)
    assert outside.classes_.tolist() == inside.classes_.tolist() == list("abcd")
    assert (outside.n_fit_, outside.diagnostics_.iterations) == (
        inside.n_fit_,
        inside.diagnostics_.iterations,
    )


@pytest.mark.parametrize("options", [{}, {"weight": "w"}, {"where": "year > 2021"}])
def test_the_same_evaluation_as_in_memory(path, monkeypatch, options):
    inside = evaluate(open_scores(path, logits="z_*", label="y", **options))
    monkeypatch.setattr("focalcal.io.sources.IN_MEMORY", 0)
    monkeypatch.setattr("focalcal.io.scan.BATCH_ELEMENTS", 1 << 12)
    outside = evaluate(open_scores(path, logits="z_*", label="y", **options))
    same(outside, inside)


def test_the_sample_is_row_for_row_that_of_memory(tmp_path, monkeypatch):
    n = 300_000
    rows = pa.table({"z0": np.arange(n) * 1.0, "z1": np.zeros(n), "y": np.arange(n) % 2, "w": np.arange(n)})
    path = write(tmp_path / "a.parquet", rows)
    inside, _ = open_scores(path, logits="z*", label="y", weight="w").rows()
    monkeypatch.setattr("focalcal.io.sources.IN_MEMORY", 0)
    outside, _ = open_scores(path, logits="z*", label="y", weight="w").rows()
    for size in (4096, 100, 1 << 16):
        a, b = inside.sample(size), outside.sample(size)
        for name in ("scores", "codes", "weight"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert b.scores.flags.c_contiguous
    assert outside.sample(n // 2 + 1) is inside.sample(n // 2 + 1) is None
    np.testing.assert_array_equal(outside.class_weight(), inside.class_weight())
    np.testing.assert_array_equal(outside.in_memory().scores, inside.scores)


def test_the_search_for_the_lowest_ece(path, streamed):
    scores = open_scores(path, logits="z_*", label="y")
    fitted = FocalTemperatureScaling(criterion="ece").fit(scores)
    z, y = draw(6000, K)
    again = FocalTemperatureScaling(criterion="ece", classes=list("abcd")).fit(
        z.astype(np.float32), np.array(list("abcd"))[y]
    )
    assert fitted.temperature_ == pytest.approx(again.temperature_, rel=1e-9)


def test_lists_and_a_single_column(tmp_path, streamed):
    z, y = draw(3000, K)
    path = write(tmp_path / "a.parquet", pa.table({"e": pa.array(list(z)), "y": y}))
    scores = open_scores(path, logits="e", label="y")
    assert (scores.n, scores.n_classes) == (3000, K)
    same(evaluate(scores), evaluate(y, z, input="logits"))
    p = np.random.default_rng(0).random(3000)
    write(path, pa.table({"p": p, "y": p > 0.4}))
    same(evaluate(open_scores(path, probs="p", label="y")), evaluate(p > 0.4, p))


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (["0", "3.0", "1", "2"], None, [0, 1, 2, 3]),
        (["ant", "bee", "cat", "dog"], None, ["ant", "bee", "cat", "dog"]),
        (["3", "1", "2", "0"], ["ant", "bee", "cat", "dog"], ["ant", "bee", "cat", "dog"]),
        (["a", "b", "a", "b"], ["b", "x", "a", "y"], ["b", "x", "a", "y"]),
        (["b", "b", "b", "b"], None, ["a", "b", "c", "d"]),
    ],
)
def test_labels_and_classes_are_found_as_in_memory(tmp_path, monkeypatch, labels, classes, expected):
    rng = np.random.default_rng(0)
    lines = [",".join([*map(str, rng.normal(size=4).round(3)), label]) for label in labels * 50]
    path = tmp_path / "a.csv"
    path.write_text("z_a,z_b,z_c,z_d,y\n" + "\n".join(lines) + "\n")
    found = []
    for limit in (1 << 28, 0):
        monkeypatch.setattr("focalcal.io.sources.IN_MEMORY", limit)
        found.append(open_scores(path, logits="z_*", label="y", classes=classes).rows())
    (inside, names), (outside, others) = found
    assert names.tolist() == others.tolist() == expected
    np.testing.assert_array_equal(inside.codes, outside.in_memory().codes)


class TestErrors:
    def fails(self, path, match, **options):
        with pytest.raises(ValueError, match=match):
            evaluate(open_scores(path, **({"logits": "z_*", "label": "y"} | options)))

    def test_a_row_is_named(self, tmp_path, streamed):
        rows = table()
        z = rows["z_b"].to_numpy().copy()
        z[4321] = np.nan
        path = write(tmp_path / "a.parquet", rows.set_column(1, "z_b", [z]))
        self.fails(path, "got NaN in row 4321")
        with pytest.raises(ValueError, match="got NaN in row 4321"):
            TemperatureScaling().fit(open_scores(path, logits="z_*", label="y"))

    def test_missing_values(self, tmp_path, streamed):
        rows = table()
        for name in ("z_b", "y", "w"):
            place = rows.column_names.index(name)
            values = rows[name].to_pylist()
            values[5000] = values[5001] = None
            path = write(tmp_path / "a.parquet", rows.set_column(place, name, [values]))
            self.fails(path, f"every row of column '{name}', got NULL in 2 row", weight="w")

    def test_labels_weights_and_widths(self, tmp_path, streamed):
        path = write(tmp_path / "a.parquet", table())
        self.fails(path, "at least one row .* with where 'year > 9999', got 0", where="year > 9999")
        self.fails(path, "Expected labels beside the scores", label=None)
        self.fails(path, "labels for 4 columns .* got 7 different", label="year")
        self.fails(path, "labels that are integers or names, got the number 0", label="w")
        self.fails(path, "finite and >= 0, got min=-", weight="z_a")
        self.fails(path, "name each of the 4 columns once, got 2", classes=["a", "b"])
        lists = pa.table({"e": [[1.0, 2.0]] * 3000 + [[1.0]] * 3000, "y": [0] * 6000})
        self.fails(write(path, lists), "Expected lists of one length", logits="e")

    def test_text_among_numbers(self, tmp_path, streamed):
        path = tmp_path / "a.csv"
        path.write_text("z_a,z_b,y\n" + "1,2,a\n" * 3000 + "1,oops,b\n" + "1,2,b\n" * 3000)
        self.fails(path, "Expected numbers in column 'z_b', got 'oops'")

    def test_a_corrupt_file_in_the_middle_is_named(self, tmp_path, streamed):
        for part in range(3):
            write(tmp_path / f"part{part}.parquet", table(seed=part))
        broken = tmp_path / "part1.parquet"
        whole = broken.read_bytes()
        middle = len(whole) // 2
        broken.write_bytes(whole[:middle] + os.urandom(2000) + whole[middle + 2000 :])
        self.fails(tmp_path / "part*.parquet", r"readable table in '.*part1.parquet'")
        broken.write_bytes(whole[:middle])
        with pytest.raises(ValueError, match=r"readable table in '.*part1.parquet'"):
            open_scores(tmp_path / "part*.parquet", logits="z_*", label="y")

    def test_declared_otherwise(self, path, streamed):
        with pytest.raises(ValueError, match="declared as probs, got logits"):
            TemperatureScaling(input="probs").fit(open_scores(path, logits="z_*", label="y"))

    def test_probabilities_declared_as_logits(self, tmp_path, streamed):
        p = np.full((2000, 2), 0.5)
        path = write(
            tmp_path / "a.parquet", pa.table({"z0": p[:, 0], "z1": p[:, 1], "y": np.arange(2000) % 2})
        )
        with pytest.warns(CalibrationWarning, match="sum to 1, as probabilities do"):
            open_scores(path, logits="z*", label="y").rows()


def test_a_large_table_shows_what_it_is_without_being_read(path, streamed):
    scores = open_scores(path, logits="z_*", label="y", weight="w")
    assert repr(scores).endswith("logits of shape (6000, 4), streamed>")
    assert scores.weighted
    assert "_held" not in vars(scores)
    assert (scores.X.shape, scores.y.shape, scores.weight.shape) == ((6000, 4), (6000,), (6000,))
    assert scores.classes.tolist() == list("abcd")


def test_an_executor_sums_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("focalcal.io.scan.PART_ELEMENTS", (1, 8000))
    for part in range(3):
        write(tmp_path / f"part{part}.parquet", table(seed=part))
    for pattern, options in [("part*.parquet", {}), ("part0.parquet", {"where": "year > 2021 and z_a < 3"})]:
        scores = open_scores(tmp_path / pattern, logits="z_*", label="y", weight="w", **options)
        alone, together = FocalTemperatureScaling().fit(scores), FocalTemperatureScaling()
        with ThreadPoolExecutor(3) as pool:
            rows, _ = scores.rows(executor=pool)
            together.fit(scores, executor=pool)
            same(evaluate(scores, input="logits", executor=pool), evaluate(scores))
        assert len(rows.parts) > 3
        assert pickle.loads(pickle.dumps(rows.parts)) == rows.parts
        assert together.temperature_ == pytest.approx(alone.temperature_, rel=1e-12)
        assert together.gamma_ == pytest.approx(alone.gamma_, rel=1e-9, abs=1e-12)


def test_files_of_different_layout_are_read_in_parts_as_one_table(tmp_path):
    a = pa.table(
        {"z0": pa.array([1.0, 2.0], pa.float32()), "z1": [0.0, 1.0], "y": pa.array([0, 1], pa.int8())}
    )
    b = pa.table({"tag": ["x", None], "y": pa.array([1, 0], pa.int64()), "z1": [5, 6], "z0": [7, 8]})
    for suffix in (".parquet", ".csv"):
        for name, rows in (("a", a), ("b", b)):
            write(tmp_path / f"{name}{suffix}", rows)
        for where in (None, "tag IS NULL"):
            scores = open_scores(tmp_path / f"?{suffix}", logits="z*", label="y", where=where)
            with ThreadPoolExecutor(2) as pool:
                rows = scores.rows(executor=pool)[0].in_memory()
            np.testing.assert_array_equal(rows.scores, scores.X)
            np.testing.assert_array_equal(rows.codes, scores.y)


def test_addresses_are_left_to_duckdb():
    for address in ("s3://no-such-bucket/x.parquet", "https://localhost:1/x.parquet?key=1"):
        with pytest.raises(ValueError, match=r"readable table in '.*x.parquet"):
            open_scores(address, logits="z*")
    with pytest.raises(ValueError, match="Expected a file ending in"):
        open_scores("s3://bucket/x.txt", logits="z*")


def test_the_threshold_is_in_bytes(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", table(n=1000))
    monkeypatch.setattr("focalcal.io.sources.IN_MEMORY", 1000 * K * 4)
    assert open_scores(path, logits="z_*", label="y").is_small()
    monkeypatch.setattr("focalcal.io.sources.IN_MEMORY", 1000 * K * 4 - 1)
    scores = open_scores(path, logits="z_*", label="y")
    assert not scores.is_small()
    assert focalcal.evaluate(scores).n == 1000


def test_the_samples_of_a_fit_take_one_pass(tmp_path, streamed, monkeypatch):
    z, y = draw(120_000, K)
    path = write(tmp_path / "a.parquet", pa.table({f"z{j}": z[:, j] for j in range(K)} | {"y": y}))
    monkeypatch.setattr("focalcal.rows.SAMPLES", (1 << 14, 1 << 15))
    monkeypatch.setattr("focalcal.io.stream.SAMPLES", (1 << 14, 1 << 15))
    monkeypatch.setattr("focalcal.calibrators.temperature.fitting._STAND_IN", 1 << 14)
    monkeypatch.setattr("focalcal.calibrators.temperature.fitting._MANY", 1 << 15)
    monkeypatch.setattr("focalcal.io.scan.BATCH_ELEMENTS", 1 << 16)
    passes = []
    original = TableRows.map_sum

    def counted(self, task):
        passes.append(type(task).__name__)
        return original(self, task)

    monkeypatch.setattr(TableRows, "map_sum", counted)
    FocalTemperatureScaling().fit(open_scores(path, logits="z*", label="y"))
    assert passes.count("Pick") == 1
    assert len(passes) <= 4
