"""Reading predictions: every format gives the same rows, and every wrong input one clear error."""

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import focalcal.io.tables
from focalcal import open_scores

K = 12


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, K)).astype(np.float32), rng.integers(0, K, 50), rng.random(50)


def columns(logits, labels, weight, name="z{}"):
    # stored in an order that is neither alphabetical nor natural
    order = [3, 11, 0, 10, 2, 1, 4, 5, 9, 8, 7, 6]
    table = {"id": [f"00{i}" for i in range(len(labels))]}
    table |= {name.format(j): logits[:, j] for j in order}
    return table | {"y": labels, "w": weight, "val_mask": np.arange(len(labels)) % 2 == 0}


def write(path, table):
    table = pa.table(table)
    if path.name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=7)
    elif path.name.endswith(".csv"):
        pa.csv.write_csv(table, path)
    else:
        with gzip.open(path, "wb") as file:
            pa.csv.write_csv(table, file)
    return path


@pytest.mark.parametrize("name", ["v.parquet", "v.csv", "v.csv.gz", "V.PARQUET"])
@pytest.mark.parametrize("where", [None, "not val_mask"])
def test_tables_give_the_same_rows_in_order(tmp_path, data, name, where):
    logits, labels, weight = data
    path = tmp_path / "v.parquet"
    write(path, columns(*data)) if name == "V.PARQUET" else write(path := tmp_path / name, columns(*data))
    if name == "V.PARQUET":
        path = path.rename(tmp_path / name)
    scores = open_scores(path, logits="z*", label="y", weight="w", where=where)
    rows = slice(None) if where is None else slice(1, None, 2)
    np.testing.assert_array_equal(scores.X.astype(np.float32), logits[rows])
    np.testing.assert_array_equal(scores.y, labels[rows])
    np.testing.assert_array_equal(scores.weight, weight[rows])
    assert scores.columns == tuple(f"z{j}" for j in range(K))
    assert scores.X.dtype == (np.float64 if "csv" in name else np.float32)
    assert (scores.input, scores.n, scores.n_classes, scores.y.dtype) == ("logits", len(labels[rows]), K, int)


def test_npz_and_npy(tmp_path, data):
    logits, labels, weight = data
    mask = np.arange(50) % 2 == 0
    np.savez(tmp_path / "a.npz", logits=logits.astype(np.float16), labels=labels, w=weight, val_mask=mask)
    scores = open_scores(tmp_path / "a.npz", weight="w", where="not val_mask")
    np.testing.assert_array_equal(scores.X, logits.astype(np.float16)[1::2])
    np.testing.assert_array_equal(scores.y, labels[1::2])
    np.testing.assert_array_equal(scores.weight, weight[1::2])
    np.savez(tmp_path / "b.npz", probs=logits, y=labels)
    assert open_scores(tmp_path / "b.npz").input == "probs"
    np.save(tmp_path / "c.npy", logits)
    scores = open_scores(tmp_path / "c.npy", probs="*")
    assert (scores.input, scores.y) == ("probs", None)
    np.testing.assert_array_equal(scores.X, logits)


def test_large_table_keeps_the_order_over_many_batches(tmp_path, monkeypatch):
    n = 5000
    monkeypatch.setattr("focalcal.io.scan.BATCH_ELEMENTS", 64)
    table = {"z0": np.arange(n) * 1.0, "z1": -np.arange(n) * 1.0, "y": np.arange(n) % 2}
    path = write(tmp_path / "a.parquet", table)
    scores = open_scores(path, logits="z*", label="y")
    np.testing.assert_array_equal(scores.X[:, 0], np.arange(n))
    np.testing.assert_array_equal(scores.y, np.arange(n) % 2)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_pattern_of_files_is_read_in_natural_order(tmp_path, suffix):
    for part in (10, 9, 1):
        # columns in another order in one of the files must not be mixed up
        table = {"a": [part * 1.0], "b": [-part * 1.0]}
        write(tmp_path / f"part{part}{suffix}", dict(reversed(table.items())) if part == 9 else table)
    scores = open_scores(tmp_path / f"part*{suffix}", logits="a,b")
    np.testing.assert_array_equal(scores.X, [[1, -1], [9, -9], [10, -10]])


@pytest.mark.parametrize("name", ["it's [1] 100%.parquet", "ünï*cödé?.parquet", 'a"b;--.csv', "x{y}.csv"])
def test_odd_file_names(tmp_path, data, name):
    write(tmp_path / "ünïXcödéX.parquet", {"z0": [9.0], "z1": [9.0]})
    scores = open_scores(write(tmp_path / name, columns(*data)), logits="z*", label="y")
    np.testing.assert_array_equal(scores.y, data[1])


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_hostile_column_names(tmp_path, suffix):
    names = ['a"; DROP TABLE x; --', "b,c", "d*", "é 'x'"]
    table = {name: [float(i), i + 0.5] for i, name in enumerate(names)} | {
        "select": [0, 3],
        "ok": [True, False],
    }
    path = write(tmp_path / f"a{suffix}", table)
    scores = open_scores(path, logits=names, label="select")
    np.testing.assert_array_equal(scores.X, [[0, 1, 2, 3], [0.5, 1.5, 2.5, 3.5]])
    assert open_scores(path, logits="b,c").X.tolist() == [1, 1.5]
    assert open_scores(path, logits=names, where='"d*" > 2 and not ok').n == 1


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 3), pa.large_list(pa.float16())]
)
def test_one_column_of_lists(tmp_path, kind):
    rows = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    pq.write_table(pa.table({"e": pa.array(rows, kind), "y": [0, 1]}), tmp_path / "a.parquet")
    assert open_scores(tmp_path / "a.parquet", logits="e", label="y").X.tolist() == rows


def test_a_column_of_lists_in_csv_and_of_uneven_length(tmp_path):
    (tmp_path / "a.csv").write_text('e,y\n"[1.0, 2.0]",0\n"[3, 4]",1\n')
    assert open_scores(tmp_path / "a.csv", logits="e", label="y").X.tolist() == [[1, 2], [3, 4]]
    pq.write_table(pa.table({"e": [[1.0, 2.0], [1.0]]}), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match="Expected lists of one length, one number a class, got lengths 2 and 1"
    ):
        open_scores(tmp_path / "a.parquet", logits="e")
    pq.write_table(pa.table({"e": [[1.0, 2.0], [1.0, None]]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="without missing values, got 1 NULL"):
        open_scores(tmp_path / "a.parquet", logits="e")


def test_list_lengths_that_differ_between_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("focalcal.io.scan.BATCH_ELEMENTS", 1)
    pq.write_table(pa.table({"e": [[1.0, 2.0]] * 3000 + [[1.0]] * 3000}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="Expected lists of one length"):
        open_scores(tmp_path / "a.parquet", logits="e")


def test_one_column_of_numbers_is_the_score_of_the_second_class(tmp_path):
    path = write(tmp_path / "a.parquet", {"p": [0.25, 0.5], "y": [0, 1]})
    scores = open_scores(path, probs="p", label="y")
    assert (scores.X.tolist(), scores.n_classes, scores.input) == ([0.25, 0.5], 2, "probs")


class TestClasses:
    def read(self, tmp_path, table, suffix=".parquet", **options):
        return open_scores(write(tmp_path / f"a{suffix}", table), label="y", **({"logits": "z_*"} | options))

    @pytest.mark.parametrize("suffix", [".parquet", ".csv"])
    def test_the_pattern_names_them(self, tmp_path, suffix):
        scores = self.read(tmp_path, {"z_dog": [1.0], "z_ant": [2.0], "y": ["dog"]}, suffix)
        assert scores.classes.tolist() == ["ant", "dog"]
        assert scores.X.tolist() == [[2.0, 1.0]]

    def test_the_columns_own_names(self, tmp_path):
        scores = self.read(tmp_path, {"dog": [1.0], "ant": [2.0], "y": ["dog"]}, logits="dog,ant")
        assert scores.classes.tolist() == ["dog", "ant"]

    def test_names_that_do_not_cover_the_labels_say_nothing(self, tmp_path):
        assert self.read(tmp_path, {"z_0": [1.0], "z_1": [2.0], "y": ["dog"]}).classes is None

    def test_columns_counted_from_one(self, tmp_path):
        table = {f"z_{j}": [0.0, 0.0] for j in range(1, 12)}
        assert self.read(tmp_path, table | {"y": [1, 11]}).classes.tolist() == list(range(1, 12))
        assert self.read(tmp_path, table | {"y": [0, 10]}).classes is None

    def test_given_names_of_column_numbers(self, tmp_path):
        scores = self.read(tmp_path, {"z_0": [1.0], "z_1": [2.0], "y": [1]}, classes=["ant", "dog"])
        assert (scores.y.tolist(), scores.classes.tolist()) == (["dog"], ["ant", "dog"])
        with pytest.raises(ValueError, match=r"column numbers 0\.\.1, got 2\.\.2"):
            self.read(tmp_path, {"z_0": [1.0], "z_1": [2.0], "y": [2]}, classes=["ant", "dog"])
        with pytest.raises(ValueError, match="name each of the 2 columns once, got 3"):
            self.read(tmp_path, {"z_0": [1.0], "z_1": [2.0], "y": [1]}, classes=["a", "b", "c"])

    def test_npz_key(self, tmp_path):
        np.savez(tmp_path / "a.npz", logits=np.eye(2), labels=[1, 0], classes=["ant", "dog"])
        scores = open_scores(tmp_path / "a.npz")
        assert (scores.y.tolist(), scores.classes.tolist()) == (["dog", "ant"], ["ant", "dog"])

    def test_numbers_stored_as_text_are_not_sorted_as_text(self, tmp_path):
        table = {f"z_{'abcdefghijk'[j]}": [0.0] * 11 for j in range(11)}
        with pytest.raises(ValueError, match="numbers stored as text"):
            self.read(tmp_path, table | {"y": [str(j) for j in range(11)]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3\n10", [3, 10]),
        ("3.0\n10.0", [3, 10]),
        ("3.000000e+00\n1.0e+01", [3, 10]),
        ("0.000000000000000000e+00\n2.0", [0, 2]),
        ("1e5\n2.5e0", ["1e5", "2.5e0"]),
        ("007\n1", ["007", "1"]),
        ("True\nFalse", ["True", "False"]),
    ],
)
def test_labels_in_csv(tmp_path, text, expected):
    rows = "\n".join(f"{label},1,2" for label in text.split("\n"))
    (tmp_path / "a.csv").write_text(f"y,a,b\n{rows}\n")
    assert open_scores(tmp_path / "a.csv", logits="a,b", label="y").y.tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([True, False]), [True, False]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([1, 0], pa.uint8()), [1, 0]),
        (pa.array([1.0, 0.0]), [1, 0]),
    ],
)
def test_labels_in_parquet(tmp_path, values, expected):
    path = write(tmp_path / "a.parquet", {"z0": [1.0, 2.0], "z1": [1.0, 2.0], "y": values})
    assert open_scores(path, logits="z*", label="y").y.tolist() == expected


class TestErrors:
    @pytest.fixture
    def path(self, tmp_path, data):
        return write(tmp_path / "val.parquet", columns(*data))

    def test_columns(self, path):
        with pytest.raises(
            ValueError, match=r"Expected label to name a column, got 'Y'. Did you mean 'y'\? There is:"
        ):
            open_scores(path, logits="z*", label="Y")
        with pytest.raises(ValueError, match=r"got 'z_1'. Did you mean .*'z1'"):
            open_scores(path, logits="z0,z_1")
        with pytest.raises(ValueError, match="Expected logits to match a column, got 'q\\*'"):
            open_scores(path, logits="q*")
        with pytest.raises(ValueError, match="each column once in probs, got 'z3' twice"):
            open_scores(path, probs="z*,z3")
        with pytest.raises(ValueError, match="weight to name a column"):
            open_scores(path, logits="z*", weight="weights")
        with pytest.raises(ValueError, match="Expected numbers in column 'id', got VARCHAR"):
            open_scores(path, logits="id,z1")
        with pytest.raises(ValueError, match="either logits or probs, got both"):
            open_scores(path, logits="z*", probs="z*")
        with pytest.raises(ValueError, match="which columns hold the scores"):
            open_scores(path, label="y")

    def test_a_pattern_leaves_out_label_and_weight(self, tmp_path):
        path = write(tmp_path / "a.parquet", {"z0": [1.0], "z1": [1.0], "zy": [1], "zw": [0.5]})
        assert open_scores(path, logits="z*", label="zy", weight="zw").columns == ("z0", "z1")

    @pytest.mark.parametrize("where", ["nope > 3", "y <", "y = 1; drop table x", "1=1) or (1=1", "'"])
    def test_where_that_is_no_condition(self, path, where):
        with pytest.raises(ValueError, match="Expected where as an SQL condition over the columns"):
            open_scores(path, logits="z*", where=where)

    def test_where_that_keeps_nothing(self, path, tmp_path):
        with pytest.raises(ValueError, match=r"at least one row .* with where 'y > 99', got 0"):
            open_scores(path, logits="z*", where="y > 99")
        np.savez(tmp_path / "a.npz", logits=np.eye(2), labels=[0, 1])
        with pytest.raises(ValueError, match=r"at least one row .* with where 'labels > 99', got 0"):
            open_scores(tmp_path / "a.npz", where="labels > 99")

    @pytest.mark.parametrize("suffix", [".parquet", ".csv"])
    def test_missing_values(self, tmp_path, suffix):
        table = {"z0": [1.0, None, None], "z1": [1.0, 2.0, 3.0], "y": ["a", "b", None]}
        path = write(tmp_path / f"a{suffix}", table)
        with pytest.raises(ValueError, match="every row of column 'z0', got NULL in 2 row"):
            open_scores(path, logits="z*")
        with pytest.raises(ValueError, match="every row of column 'y', got NULL in 1 row"):
            open_scores(path, logits="z1", label="y")
        assert open_scores(path, logits="z*", label="y", where="z0 IS NOT NULL").n == 1

    def test_text_among_the_numbers(self, tmp_path):
        (tmp_path / "a.csv").write_text("y,a,b\n0,1,2\n1,3,oops\n")
        for where in (None, "y >= 0"):
            with pytest.raises(ValueError, match="Expected numbers in column 'b', got 'oops'"):
                open_scores(tmp_path / "a.csv", logits="a,b", where=where)

    def test_a_condition_on_a_column_that_turns_to_text_late(self, tmp_path):
        (tmp_path / "a.csv").write_text("tag,a,b\n" + "1,2,3\n" * 30_000 + "x,4,5\n")
        assert open_scores(tmp_path / "a.csv", logits="a,b", where="tag = 'x'").X.tolist() == [[4, 5]]

    def test_empty_files(self, tmp_path):
        for name in ("a.parquet", "a.csv", "a.npz", "a.npy"):
            (tmp_path / name).touch()
            with pytest.raises(ValueError, match=f"{name}', got an empty file"):
                open_scores(tmp_path / name, logits="*")
        (tmp_path / "h.csv").write_text("a,b\n")
        with pytest.raises(ValueError, match=r"at least one row in .*h.csv' .it has only a header., got 0"):
            open_scores(tmp_path / "h.csv", logits="a,b")

    def test_truncated_and_corrupt_files_are_named(self, tmp_path, path):
        whole = path.read_bytes()
        cut = tmp_path / "cut.parquet"
        cut.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"readable table in '.*cut.parquet'"):
            open_scores(cut, logits="z*")
        with pytest.raises(ValueError, match=r"readable table in '.*cut.parquet'"):
            open_scores(tmp_path / "*.parquet", logits="z*")
        cut.write_bytes(whole[:200] + bytes(400) + whole[600:])
        with pytest.raises(ValueError, match=r"readable table in '.*cut.parquet'"):
            open_scores(tmp_path / "*.parquet", logits="z*", label="y")
        np.savez(tmp_path / "a.npz", logits=np.zeros((100, 10)))
        whole = (tmp_path / "a.npz").read_bytes()
        (tmp_path / "b.npz").write_bytes(whole[:2000])
        with pytest.raises(ValueError, match=r"NumPy arrays without pickled objects in '.*b.npz'"):
            open_scores(tmp_path / "b.npz")
        (tmp_path / "b.npz").write_bytes(whole[:500] + b"x" + whole[501:])
        with pytest.raises(ValueError, match=r"NumPy arrays without pickled objects in '.*b.npz'"):
            open_scores(tmp_path / "b.npz")

    def test_pickles_are_refused(self, tmp_path):
        np.savez(tmp_path / "a.npz", logits=np.zeros((2, 2)), labels=np.array([{}, None], dtype=object))
        with pytest.raises(ValueError, match="without pickled objects"):
            open_scores(tmp_path / "a.npz")

    def test_npz_keys_and_shapes(self, tmp_path):
        np.savez(tmp_path / "a.npz", logits=np.zeros((2, 2)), probs=np.zeros((2, 2)), labels=[1, 2, 3])
        with pytest.raises(
            ValueError, match=r"one of the keys 'logits' and 'probs' .* got logits, probs, labels"
        ):
            open_scores(tmp_path / "a.npz")
        with pytest.raises(
            ValueError, match=r"label 'labels' with one entry a row, shape \(2,\), got \(3,\)"
        ):
            open_scores(tmp_path / "a.npz", logits="logits")
        with pytest.raises(
            ValueError, match=r"Expected logits to name a column, got 'logit'. Did you mean 'logits'"
        ):
            open_scores(tmp_path / "a.npz", logits="logit")

    def test_paths(self, tmp_path, path):
        with pytest.raises(FileNotFoundError, match=r"does not exist. Did you mean 'val.parquet'\?"):
            open_scores(tmp_path / "vall.parquet", logits="z*")
        with pytest.raises(FileNotFoundError, match="a file matching"):
            open_scores(tmp_path / "nothing*.parquet", logits="z*")
        with pytest.raises(ValueError, match="got the folder"):
            open_scores(tmp_path, logits="z*")
        (tmp_path / "val.txt").write_text("x")
        with pytest.raises(ValueError, match=r"Expected a file ending in .parquet"):
            open_scores(tmp_path / "val.txt", logits="z*")
        (tmp_path / "val.csv").write_text("x\n1\n")
        with pytest.raises(ValueError, match=r"files of one format .* got csv and parquet"):
            open_scores(tmp_path / "val.[cp]*", logits="z*")

    def test_odd_labels(self, tmp_path):
        path = write(tmp_path / "a.parquet", {"z": [1.0], "y": [0.5], "d": [pa.scalar(0, pa.date32())]})
        with pytest.raises(ValueError, match=r"labels that are integers or names, got the number 0.5"):
            open_scores(path, logits="z", label="y")
        with pytest.raises(ValueError, match=r"label column 'd', got DATE"):
            open_scores(path, logits="z", label="d")

    def test_without_the_extra(self, path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
        with pytest.raises(ImportError, match=r"pip install 'focalcal\[data\]'"):
            open_scores(path, logits="z*")
        assert issubclass(focalcal.io.tables.MissingExtraError, ImportError)


def test_repr_is_short(tmp_path):
    np.savez(tmp_path / "a.npz", logits=np.zeros((2, 3)))
    text = repr(open_scores(tmp_path / "a.npz"))
    assert text.endswith("logits float64 of shape (2, 3), no labels>")


DATA = Path(__file__).parents[1] / "../shared/data"


@pytest.mark.skipif(not DATA.is_dir(), reason="the real score files are not here")
def test_real_files():
    scores = open_scores(DATA / "cifar10_resnet20_akamaster.npz", where="val_mask")
    assert scores.X.shape[1] == len(scores.classes) == 10
    assert scores.y.dtype.kind == "U"
    assert os.path.basename(scores.path) == "cifar10_resnet20_akamaster.npz"
