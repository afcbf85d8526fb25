"""Every script in examples/ runs without a warning, leaves no file, and ends with numbers and intervals."""

import gzip
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

#: Those that need what the tests do not install, and what that is.
CLUSTERS = {"ray_fit": "ray", "spark_fit": "pyspark"}

#: The training examples, what they need, and options: so many epochs (or rounds) are enough on the digits.
TRAINING = {
    "train_plain": ("torch", "--epochs", "4"),
    "train_lightning": ("lightning", "--epochs", "8", "--onnx", "calibrator.onnx"),
    "train_trainer": ("transformers", "--epochs", "8"),
    "train_sklearn": ("sklearn", "--epochs", "20"),
    "train_xgboost": ("xgboost", "--epochs", "15"),
}

NUMBER = r"-?[\d.]+(?:e-?\d+)?"
ROW = re.compile(rf"^(NLL|ECE) [ a-z()]*({NUMBER}) +\[({NUMBER}), ({NUMBER})\] +({NUMBER})$", re.MULTILINE)


def run(name, *options, folder=None):
    """Run a script with warnings as errors; what a fit on few digits says of itself is none of them."""
    warnings = ["-W", "error", "-W", "ignore:At a bound", "-W", "ignore:T and gamma"]
    command = [sys.executable, *warnings, str(EXAMPLES / f"{name}.py"), *options]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # threads that wait for each other, for so few rows
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, cwd=folder, env=alone
    )
    assert done.returncode == 0, done.stderr
    return done


def test_every_example_is_tested():
    found = {path.stem for path in EXAMPLES.glob("*.py")}
    assert found == {*CLUSTERS, *TRAINING, "calibrate_digits", "images"}


def test_calibrate_digits(tmp_path):
    done = run("calibrate_digits", "--figure", str(tmp_path / "figure.png"))
    before, after = (float(v) for v in re.findall(r"^ECE +([\d.]+)", done.stdout, flags=re.MULTILINE))
    assert after < before
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_training(name, tmp_path):
    library, *options = TRAINING[name]
    pytest.importorskip(library, reason=f"pip install {library} to run this example")
    done = run(name, "--data", "digits", *options, folder=tmp_path)
    assert done.stderr == ""
    assert {path.name for path in tmp_path.iterdir()} == {one for one in options if "." in one}
    nll = {}
    *_, raw, calibrated, compared = re.split(r"^(?:raw|calibrated.*)$", done.stdout, flags=re.MULTILINE)
    for title, block in (("raw", raw), ("calibrated", calibrated)):
        rows = {name: [float(v) for v in numbers] for name, *numbers in ROW.findall(block)}
        assert set(rows) == {"NLL", "ECE"}
        for value, low, high, stderr in rows.values():
            assert 0 <= low < high < 3
            assert 0 < stderr < value < 3
        assert "n = 797, 10 classes" in block
        nll[title] = rows["NLL"][0]
    assert nll["calibrated"] < nll["raw"]
    difference = float(re.search(r"^NLL.* ([+-][\d.]+) +\[", compared, flags=re.MULTILINE)[1])
    assert difference == pytest.approx(nll["calibrated"] - nll["raw"], abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CLUSTERS))
def test_a_cluster_gives_the_digits_of_a_local_fit(name):
    pytest.importorskip(CLUSTERS[name], reason=f"pip install {CLUSTERS[name]} to run this example")
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (a, b), (c, d) = re.findall(r"T = ([\d.]+), gamma = (-?[\d.]+)", done.stdout)
    assert float(a) == pytest.approx(float(c), rel=1e-11)
    assert float(b) == pytest.approx(float(d), abs=1e-9)


@pytest.fixture(scope="module")
def images():
    pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")
    spec = importlib.util.spec_from_file_location("images", EXAMPLES / "images.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["images"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["images"]


def idx(values):
    """The format of MNIST, by its description: 0, 0, 8 for bytes, the number of axes, their lengths."""
    head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return gzip.compress(head + bytes(values.ravel().tolist()))


def test_images_of_mnists_format(images, tmp_path):
    pixels = np.arange(8 * 2 * 3, dtype=np.uint8).reshape(8, 2, 3) * 5
    labels = np.array([0, 1, 2, 0, 1, 2, 9, 9], dtype=np.uint8)
    for part, rows in (("train", slice(None)), ("t10k", slice(2))):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(pixels[rows]))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels[rows]))
    found = images.load("fashion-mnist", tmp_path, rows=4)
    assert [len(part) for part in (found.x_train, found.x_val, found.x_test)] == [3, 1, 2]
    assert found.n_classes == 3
    assert found.y_val.tolist() + found.y_train.tolist() == [0, 1, 2, 0]
    scaled = pixels[:4, None] / 255 - 0.5
    np.testing.assert_allclose(np.concatenate([found.x_val, found.x_train]), scaled, atol=1e-6)
    assert found.y_test.tolist() == [0, 1]


def test_images_of_a_file(images, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(8, 6, 5, 3), dtype=np.uint8), np.arange(8) % 2
    np.savez(tmp_path / "some.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    found = images.load(str(tmp_path / "some.npz"))
    assert found.x_test.shape == (2, 3, 6, 5)
    np.testing.assert_allclose(found.x_test[1, 2, 3, 0], x[1, 3, 0, 2] / 255 - 0.5, atol=1e-6)
    assert images.small_network(found)(found.x_val).shape == (2, 2)


def test_images_that_are_not_there(images, tmp_path):
    with pytest.raises(
        SystemExit, match=r"Expected Fashion-MNIST in .*gone.*apt-get install dataset-fashion"
    ):
        images.load("fashion-mnist", tmp_path / "gone")
