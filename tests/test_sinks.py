"""Writing calibrated tables: nothing that was there changes, and there is no half-written file."""

import csv
import datetime as dt
import gzip
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import log_softmax

from focalcal.io.sinks import apply


class Halving:
    """A calibrator with temperature 2, and no fit."""

    def __init__(self, classes=(0, 1, 2), input="logits"):
        self.classes_ = np.array(classes)
        self.input = input

    def transform(self, X):
        return log_softmax(X / 2, axis=1)


class Interrupted(Halving):
    """Ctrl-C, or a bug, in the second batch."""

    def __init__(self, error):
        super().__init__()
        self.error, self.calls = error, 0

    def transform(self, X):
        self.calls += 1
        if self.calls == 2:
            raise self.error
        return super().transform(X)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr("focalcal.io.sinks.BATCH_ELEMENTS", 64)


def rich_table(n=40):
    rng = np.random.default_rng(1)
    return pa.table(
        {
            "when": pa.array(
                [dt.datetime(2020, 1, 1) + dt.timedelta(days=i) for i in range(n)], pa.timestamp("ns", "UTC")
            ),
            "tiny": pa.array(np.arange(n) % 100, pa.int8()),
            "half": pa.array(rng.normal(size=n).astype(np.float16)),
            "kind": pa.array([["a", "b"][i % 2] for i in range(n)]).dictionary_encode(),
            "pair": pa.array([[1.0, 2.0]] * n, pa.list_(pa.float32(), 2)),
            "maybe": pa.array([None, "x"] * (n // 2)),
            "A": list(range(n)),
            "a": list(range(n)),
            **{f"z{j}": rng.normal(size=n).astype(np.float32) for j in range(3)},
        }
    ).replace_schema_metadata({"made by": "a test"})


def scores_of(table):
    return np.stack([table[f"z{j}"].to_numpy() for j in range(3)], axis=1)


def test_parquet_types_and_order_are_kept(tmp_path, small_batches):
    table = rich_table(4000)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1500)
    done = []
    result = apply(
        Halving(), tmp_path / "a.parquet", tmp_path / "b.parquet", logits="z?", progress=done.append
    )
    written = pq.read_table(tmp_path / "b.parquet")
    assert written.select(range(table.num_columns)).equals(table)
    assert written.schema.metadata[b"made by"] == b"a test"
    assert written.column_names[table.num_columns :] == [*result.added] == ["p_0", "p_1", "p_2", "predicted"]
    expected = np.exp(log_softmax(scores_of(table) / 2, axis=1))
    np.testing.assert_allclose(np.stack([written[f"p_{j}"] for j in range(3)], axis=1), expected, rtol=1e-6)
    np.testing.assert_array_equal(written["predicted"], expected.argmax(axis=1))
    assert result.n == done[-1] == 4000
    assert len(done) > 3


def test_csv_text_is_untouched(tmp_path, small_batches):
    text = (
        'id,"note, long",a,A,z0,z1,z2\n'
        '007,"say ""hi""",1.10,x,1,2,3\n'
        ',"",1e5,NA,3,2,1.50\n'
        '0x1F,"two\nlines",+1, pad ,0,0,9\n'
    )
    (tmp_path / "in.csv").write_text(text)
    apply(Halving(["ant", "bee", 'c"at']), tmp_path / "in.csv", tmp_path / "out.csv", logits="z*")
    written = (tmp_path / "out.csv").read_text()
    with open(tmp_path / "in.csv", newline="") as a, open(tmp_path / "out.csv", newline="") as b:
        before, after = list(csv.reader(a)), list(csv.reader(b))
    assert [row[:7] for row in after] == before
    assert after[0][7:] == ["p_ant", "p_bee", 'p_c"at', "predicted"]
    assert [row[-1] for row in after[1:]] == ['c"at', "ant", 'c"at']
    exact = np.exp(log_softmax(np.array([[1, 2, 3], [3, 2, 1.5], [0, 0, 9]]) / 2, axis=1))
    np.testing.assert_array_equal(np.array([row[7:10] for row in after[1:]], dtype=float), exact)
    # quotes only where needed, and an empty text stays different from a missing one
    assert '\n007,"say ""hi""",1.10,x,1,2,3,' in written
    assert '\n,"",1e5,NA,3,2,1.50,' in written


def test_where_and_log_probs(tmp_path):
    (tmp_path / "in.csv").write_text("id,z0,z1,z2\n007,1,2,3\n08,3.00,2,1\n009,0,0,-2000\n")
    options = {"logits": "z*", "output_kind": "log_probs", "predicted": "guess"}
    apply(Halving(), tmp_path / "in.csv", tmp_path / "out.csv.gz", where="z0 <> 1", **options)
    with gzip.open(tmp_path / "out.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["z0"]) for row in rows] == [("08", "3.00"), ("009", "0")]
    assert float(rows[1]["log_p_2"]) == pytest.approx(-1000 - np.log(2), rel=1e-12)
    table = rich_table()
    pq.write_table(table, tmp_path / "a.parquet")
    apply(
        Halving(),
        tmp_path / "a.parquet",
        tmp_path / "b.parquet",
        logits="z*",
        where="maybe = 'x' and tiny > 9",
    )
    written = pq.read_table(tmp_path / "b.parquet")
    assert written["tiny"].to_pylist() == list(range(11, 40, 2))
    assert written.schema.field("half").type == pa.float16()


def test_several_files_and_other_formats(tmp_path):
    table = rich_table().drop_columns(["A", "pair"])
    for part in (10, 9):
        names = table.column_names if part == 9 else table.column_names[::-1]
        pq.write_table(table.select(names), tmp_path / f"part{part}.parquet")
    apply(Halving(), tmp_path / "part*.parquet", tmp_path / "all.parquet", logits="z*")
    written = pq.read_table(tmp_path / "all.parquet")
    assert written.num_rows == 80
    assert written.slice(40).select(table.column_names).equals(table.combine_chunks())
    apply(Halving(), tmp_path / "part9.parquet", tmp_path / "all.csv", logits="z*")
    frame = pd.read_csv(tmp_path / "all.csv")
    np.testing.assert_array_equal(frame["z1"].to_numpy(np.float32), table["z1"])
    assert frame["kind"].tolist() == table["kind"].to_pylist()
    apply(
        Halving(),
        tmp_path / "all.csv",
        tmp_path / "again.parquet",
        logits="z*",
        prefix="q_",
        predicted="guess",
    )
    assert pq.read_table(tmp_path / "again.parquet")["kind"].to_pylist() == table["kind"].to_pylist()


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float16(), 3), pa.list_(pa.float64())])
def test_one_column_of_lists(tmp_path, kind):
    pq.write_table(pa.table({"e": pa.array([[1.0, 2.0, 3.0]] * 2, kind)}), tmp_path / "a.parquet")
    apply(Halving(), tmp_path / "a.parquet", tmp_path / "b.parquet", logits="e")
    written = pq.read_table(tmp_path / "b.parquet")
    assert written.schema.field("e").type == kind
    np.testing.assert_allclose(written["p_2"], np.exp(1.5) / np.exp([0.5, 1, 1.5]).sum(), rtol=1e-6)


def test_npz_passes_the_other_arrays_through(tmp_path):
    logits = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    np.savez(tmp_path / "a.npz", logits=logits, labels=[0, 1], names=["a", "b", "c"], keep=[True, False])
    result = apply(Halving(["u", "v", "w"]), tmp_path / "a.npz", tmp_path / "b.npz")
    written = np.load(tmp_path / "b.npz")
    assert result.added == ("calibrated_probs", "predicted")
    np.testing.assert_array_equal(written["logits"], logits)
    np.testing.assert_allclose(written["calibrated_probs"], np.exp(log_softmax(logits / 2, axis=1)))
    assert written["predicted"].tolist() == ["w", "u"]
    assert written["names"].tolist() == ["a", "b", "c"]
    apply(Halving(), tmp_path / "a.npz", tmp_path / "c.npz", where="keep", output_kind="log_probs")
    written = np.load(tmp_path / "c.npz")
    assert (written["labels"].tolist(), len(written["calibrated_log_probs"]), len(written["names"])) == (
        [0],
        1,
        3,
    )
    np.save(tmp_path / "a.npy", logits)
    apply(Halving(), tmp_path / "a.npy", tmp_path / "d.npz", logits="*")
    assert sorted(np.load(tmp_path / "d.npz")) == ["calibrated_probs", "classes", "predicted"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("existing", [None, b"precious"])
def test_a_failure_leaves_no_trace(tmp_path, small_batches, error, suffix, existing):
    pq.write_table(rich_table(4000).drop_columns("pair"), tmp_path / "a.parquet")
    output = tmp_path / f"out{suffix}"
    if existing is not None:
        output.write_bytes(existing)
    before = sorted(os.listdir(tmp_path))
    calibrator = Interrupted(error("broken"))
    with pytest.raises(
        error, match=r"broken \(Rows are counted from row \d+" if error is ValueError else "broken"
    ):
        apply(calibrator, tmp_path / "a.parquet", output, logits="z?")
    assert calibrator.calls == 2
    assert sorted(os.listdir(tmp_path)) == before
    assert existing is None or output.read_bytes() == existing


def test_a_file_can_be_its_own_output(tmp_path):
    pq.write_table(rich_table(), tmp_path / "a.parquet")
    os.chmod(tmp_path / "a.parquet", 0o640)
    os.symlink(tmp_path / "a.parquet", tmp_path / "link.parquet")
    apply(Halving(), tmp_path / "a.parquet", tmp_path / "link.parquet", logits="z?")
    assert "p_1" in pq.read_schema(tmp_path / "a.parquet").names
    assert (tmp_path / "link.parquet").is_symlink()
    assert os.stat(tmp_path / "a.parquet").st_mode & 0o777 == 0o640


class TestErrors:
    @pytest.fixture
    def path(self, tmp_path):
        pq.write_table(rich_table(), tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    def test_the_kind_of_scores(self, path, tmp_path):
        with pytest.raises(
            ValueError, match="Expected logits, which this calibrator was fitted on, got probs"
        ):
            apply(Halving(), path, tmp_path / "b.parquet", probs="z?")
        np.savez(tmp_path / "a.npz", probs=np.eye(3))
        with pytest.raises(
            ValueError, match="Expected logits, which this calibrator was fitted on, got probs"
        ):
            apply(Halving(), tmp_path / "a.npz", tmp_path / "b.npz")

    def test_columns_that_are_there_already(self, path, tmp_path):
        for options in ({"prefix": "Z"}, {"predicted": "KIND"}):
            with pytest.raises(ValueError, match=r"new column names, got .*--prefix"):
                apply(Halving(), path, tmp_path / "b.parquet", logits="z?", **options)
        np.savez(tmp_path / "a.npz", logits=np.eye(3), predicted=[0, 1, 2])
        with pytest.raises(ValueError, match="new column names, got 'predicted'"):
            apply(Halving(), tmp_path / "a.npz", tmp_path / "b.npz")

    def test_the_order_of_named_columns(self, tmp_path):
        pq.write_table(pa.table({"dog": [1.0], "ant": [2.0]}), tmp_path / "c.parquet")
        with pytest.raises(ValueError, match="calibrator's order of classes, ant, dog, …, got dog, ant"):
            apply(Halving(["ant", "dog"]), tmp_path / "c.parquet", tmp_path / "b.parquet", logits="dog,ant")

    def test_formats_and_folders(self, path, tmp_path):
        with pytest.raises(ValueError, match=r"output ending in .parquet or .csv for a .parquet input"):
            apply(Halving(), path, tmp_path / "b.npz", logits="z?")
        with pytest.raises(ValueError, match=r"Expected a file ending in"):
            apply(Halving(), path, tmp_path / "b.txt", logits="z?")
        with pytest.raises(FileNotFoundError, match="Expected the folder"):
            apply(Halving(), path, tmp_path / "no" / "b.csv", logits="z?")
        with pytest.raises(ValueError, match="Expected values that fit into a CSV cell, got fixed_size_list"):
            apply(Halving(), path, tmp_path / "b.csv", logits="z?")
        with pytest.raises(ValueError, match="Expected output_kind to be one of"):
            apply(Halving(), path, tmp_path / "b.csv", logits="z?", output_kind="odds")
        assert os.listdir(tmp_path) == ["a.parquet"]

    def test_nothing_to_write(self, path, tmp_path):
        with pytest.raises(ValueError, match="at least one row"):
            apply(Halving(), path, tmp_path / "b.parquet", logits="z?", where="tiny > 99")

    def test_missing_scores(self, tmp_path):
        (tmp_path / "a.csv").write_text("z0,z1,z2\n1,2,3\n,2,3\n")
        with pytest.raises(ValueError, match="every row of column 'z0', got NULL in 1 row"):
            apply(Halving(), tmp_path / "a.csv", tmp_path / "b.csv", logits="z*")
        pq.write_table(
            pa.table({"z0": [1.0, None], "z1": [1.0, None], "z2": [1.0, 2.0]}), tmp_path / "a.parquet"
        )
        with pytest.raises(ValueError, match="every row of column 'z0', got NULL in 1 row"):
            apply(Halving(), tmp_path / "a.parquet", tmp_path / "b.csv", logits="z*")

    def test_files_that_differ_or_are_broken(self, path, tmp_path):
        pq.write_table(rich_table().rename_columns({"tiny": "tinier"}), tmp_path / "b.parquet")
        with pytest.raises(
            ValueError, match=r"same columns in every file, got a difference in '.*b.parquet'"
        ):
            apply(Halving(), tmp_path / "?.parquet", tmp_path / "out.parquet", logits="z?")
        whole = path.read_bytes()
        (tmp_path / "b.parquet").write_bytes(whole[:4] + bytes(300) + whole[304:])
        with pytest.raises(ValueError, match=r"readable table in '.*b.parquet'"):
            apply(Halving(), tmp_path / "?.parquet", tmp_path / "out.parquet", logits="z?")
        assert not (tmp_path / "out.parquet").exists()
