"""Calibrators saved and loaded; damaged, foreign and future files refused."""

import json
import warnings

import numpy as np
import pytest

from cases import drawn
from focalcal import CalibrationWarning, FocalTemperatureScaling, TemperatureScaling, load


@pytest.fixture
def saved(tmp_path):
    z, y = drawn(2000, 3, 3.0, seed=0, gamma=1.0)
    cal = FocalTemperatureScaling().fit(z, np.array(["ant", "bee", "eel"])[y])
    path = tmp_path / "cal.json"
    cal.save(path)
    return cal, path, z


def test_a_loaded_calibrator_is_the_saved_one(saved):
    cal, path, z = saved
    again = load(path)
    assert type(again) is FocalTemperatureScaling
    np.testing.assert_array_equal(again.transform(z), cal.transform(z))
    np.testing.assert_array_equal(again.predict(z), cal.predict(z))
    assert again.stderr_ == cal.stderr_
    assert again.diagnostics_ == cal.diagnostics_
    assert again.to_dict() == cal.to_dict() | {"settings": again.to_dict()["settings"]}
    assert again.get_params()["gamma_bounds"] == (-1, 20)
    assert path.stat().st_size < 2000


def test_the_file_says_what_it_is(saved):
    _, path, _ = saved
    found = json.loads(path.read_text())
    assert found["schema"] == 1
    assert found["calibrator"] == "FocalTemperatureScaling"
    assert set(found["parameters"]) == set(found["stderr"]) == {"temperature", "gamma"}
    assert found["classes"] == ["ant", "bee", "eel"]
    assert found["n_fit"] == 2000
    assert found["input"] == "logits"
    assert found["version"]
    assert found["diagnostics"]["messages"] == []


@pytest.mark.parametrize("classes", [[False, True], [3, 8], ["</b>", "é"]])
def test_classes_and_diagnostics_survive(tmp_path, classes):
    z, y = drawn(300, 2, 2.0, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        cal = TemperatureScaling().fit(-z, np.array(classes)[y])
    cal.save(tmp_path / "c.json")
    again = load(tmp_path / "c.json")
    assert again.classes_.tolist() == classes
    assert again.classes_.dtype == cal.classes_.dtype
    assert np.isnan(again.stderr_["temperature"])
    assert again.diagnostics_.messages() == cal.diagnostics_.messages() != []


def change(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"schema": 2}, "Expected schema version 1 .*, got 2"),
        ({"calibrator": "Oracle"}, "Expected one of TemperatureScaling, .* got 'Oracle'"),
        (
            {"parameters": {"temperature": float("nan"), "gamma": 0}},
            "Expected a finite temperature .* got nan",
        ),
        ({"parameters": {"temperature": "2", "gamma": 0}}, "Expected a finite temperature"),
        ({"parameters": {"temperature": -2.0, "gamma": 0}}, "Expected a finite temperature > 0, got -2"),
        ({"parameters": {"temperature": 2.0, "gamma": -3}}, "Expected a finite gamma >= -1, got -3"),
        ({"parameters": {"temperature": 2.0}}, r"Expected the parameters \['gamma'\]"),
        ({"classes": ["a", "a"]}, "two different classes"),
        ({"classes": [["a"], ["b"]]}, "two different classes"),
        ({"classes": None}, "Expected classes as list"),
        ({"n_fit": "many"}, "Expected n_fit as int"),
        ({"input": "scores"}, 'Expected input="logits"'),
        ({"diagnostics": {"surprise": 1}}, "saved by focalcal"),
        ({"settings": {"surprise": 1}}, "saved by focalcal"),
    ],
)
def test_a_file_that_is_not_right_is_refused(saved, keys, message):
    _, path, _ = saved
    change(path, **keys)
    with pytest.raises(ValueError, match=message):
        load(path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"text"', "\x80", '{"a": 1}'])
def test_text_that_is_no_calibrator_is_refused(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="Expected a calibrator"):
        load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a calibrator's JSON in .*c\.json, got no such file"):
        load(tmp_path / "c.json")


def test_a_pickle_is_not_read(tmp_path):
    import pickle

    path = tmp_path / "c.json"
    path.write_bytes(pickle.dumps(TemperatureScaling()))
    with pytest.raises(ValueError, match="not JSON"):
        load(path)


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    cal, path, _ = saved
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        cal.save(path)
    assert path.read_text() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_scores_of_another_width_are_refused_after_loading(saved):
    _, path, z = saved
    with pytest.raises(ValueError, match="one column for each of the 3 classes"):
        load(path).transform(z[:, :2])


def test_tables_of_numbers_take_one_line_a_row(tmp_path):
    from focalcal import FocalMatrixScaling

    z, y = drawn(200, 3, 2.0, seed=2)
    names = np.array(["a [\n 1,\n 2]", "b", "[\n 3]"])  # which must not be taken for tables
    cal = FocalMatrixScaling(penalty=1.0, classes=names).fit(z, names[y])
    cal.save(tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text()
    assert sum(line.strip().startswith("[") for line in text.splitlines()) == 3
    again = load(tmp_path / "c.json")
    np.testing.assert_array_equal(again.matrix_, cal.matrix_)
    assert again.classes_.tolist() == names.tolist()
