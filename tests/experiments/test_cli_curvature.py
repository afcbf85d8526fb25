"""focalcal curvature: from a file of weights and a folder of images to the table, the drawing and JSON."""

import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")
Image = pytest.importorskip("PIL.Image", reason="Pillow comes with the plot extra")
from focalcal.cli import main  # noqa: E402
from focalcal.curvature import LossSurface  # noqa: E402
from focalcal.experiments import mlp, open_inputs  # noqa: E402
from focalcal.nn import FocalLoss  # noqa: E402

NET = ("net.pt", "--model", "mlp", "--model-args", '{"inputs": 12, "classes": 3, "hidden": [4]}')
DATA = ("--data", "images", "--batch-size", "4")


def made():
    torch.manual_seed(0)
    return mlp(12, 3, hidden=(4,))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Nine images of 2 × 2 pixels in three classes, and the weights of a perceptron for them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for k in range(9):
        path = tmp_path / "images" / "abc"[k % 3] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(2, 2, 3)).astype(np.uint8)).save(path)
    torch.save(made().state_dict(), "net.pt")


def run(capsys, *arguments):
    code = main(["curvature", *arguments])
    out, err = capsys.readouterr()
    assert (code, err) == (0, ""), err
    return out


def fail(capsys, *arguments):
    code = main(["curvature", *arguments])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    return err.removeprefix("focalcal: error: ").rstrip()


def exact(loss):
    surface = LossSurface(made(), loss, open_inputs("images"))
    return surface.hessian_product(torch.eye(surface.size, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "loss"),
    [((), torch.nn.CrossEntropyLoss()), (("--loss", "focal", "--gamma", "3"), FocalLoss(3.0))],
)
def test_the_numbers_are_those_of_the_whole_hessian(capsys, options, loss):
    found = json.loads(run(capsys, *NET, *DATA, *options, "--eigenvalues", "2", "--json"))
    assert (found["command"], found["rows"], found["whole"], found["classes"]) == (
        "curvature",
        9,
        9,
        list("abc"),
    )
    losses = {"training": loss, **({"common": torch.nn.CrossEntropyLoss()} if options else {})}
    for name, criterion in losses.items():
        matrix = exact(criterion)
        values = torch.linalg.eigvalsh(matrix).flip(0)
        assert found[name]["top"]["values"] == pytest.approx(values[:2].tolist(), rel=1e-3)
        trace = found[name]["trace"]
        assert abs(trace["value"] - float(matrix.trace())) <= 4 * trace["stderr"] + 1e-4 * float(
            matrix.trace()
        )


def test_a_table_for_people_and_the_drawing(capsys):
    out = run(capsys, *NET, *DATA, "-o", "density.png")
    assert out.splitlines()[0] == "9 of 9 rows of images, 3 classes"
    assert out.splitlines()[-1] == "Wrote density.png"
    assert "trace" in out.lower()
    with Image.open("density.png") as drawn:
        assert drawn.width > 400


def test_a_model_of_the_current_folder_and_an_npz(capsys, tmp_path):
    (tmp_path / "own_net.py").write_text("import torch\ndef make(n):\n    return torch.nn.Linear(n, 2)\n")
    torch.save({"state_dict": torch.nn.DataParallel(torch.nn.Linear(3, 2)).state_dict()}, "own.pt")
    np.savez("own.npz", x=np.random.default_rng(0).normal(size=(6, 3)), y=np.arange(6) % 2)
    model = ("own.pt", "--model", "own_net:make", "--model-args", '{"n": 3}', "--data", "own.npz")
    found = json.loads(run(capsys, *model, "--rows", "4", "--seed", "1", "--eigenvalues", "1", "--json"))
    assert (found["rows"], found["whole"]) == (4, 6)


WRONG = {
    ("--model-args", "[1]"): "Expected --model-args as a JSON object such as",
    ("--model-args", "{1}"): "Expected --model-args as a JSON object, got '{1}'",
    ("--size", "32"): "Expected --size as HEIGHTxWIDTH in pixels, e.g. 32x32, got '32'.",
    ("--mean", "a"): "Expected --mean as numbers such as 0.5,0.5,0.5, got 'a'.",
    ("--gamma", "2"): 'Expected gamma with loss "focal" alone, got 2 with "cross-entropy". Leave it out.',
    ("--loss", "focal", "--gamma", "-3"): "got -3.0",
    ("--device", "tpu9"): "Expected a device that is here, such as cpu, got 'tpu9'",
    ("--size", "4x4"): "Expected inputs that the model takes, got rows of shape (3, 4, 4): ",
    (
        "--model-args",
        '{"inputs": 12, "classes": 2, "hidden": [4]}',
    ): "the weights of this model in 'net.pt', got others",
    ("-o", "density.gif"): "Expected the suffix of --output to be one of 'svg', 'pdf', 'png', got 'gif'.",
    ("--data", "nowhere"): "No such file or directory: 'nowhere'",
}


@pytest.mark.parametrize("options", WRONG)
def test_wrong_input_meets_one_line(capsys, options):
    assert WRONG[options] in fail(capsys, *NET, *DATA, *options)


def test_data_of_more_classes_than_logits(capsys, tmp_path):
    (tmp_path / "images" / "d").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "images" / "d" / "0.png")
    assert "Expected logits of 4 classes, as the data have, got shape (1, 3)" in fail(capsys, *NET, *DATA)


def test_a_pickled_model_is_refused(capsys):
    torch.save(made(), "net.pt")
    assert "could run code" in fail(capsys, *NET, *DATA)


def test_without_torch_it_says_what_to_install():
    run = f"from focalcal.cli import main; main({['curvature', *NET, *DATA]})"
    code = f"import sys; sys.modules['torch'] = None; {run}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "focalcal: error: focalcal curvature needs torch: pip install 'focalcal[torch]'\n"
