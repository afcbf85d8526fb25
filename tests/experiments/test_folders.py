"""Images of a folder and inputs of an npz file: the pixels by hand, classes, draws, every wrong input."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")
Image = pytest.importorskip("PIL.Image", reason="Pillow comes with the plot extra")
from focalcal.experiments import open_inputs  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    """Classes b (1 image) and a (3 images, one deeper) of 2 × 3 pixels; image k is grey of value 10 k."""
    for k, name in enumerate(["b/0.png", "a/2.PNG", "a/1.jpg", "a/deep/3.jpeg"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), (10 * k, 10 * k, 10 * k)).save(path)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "README").write_text("not a class")
    return tmp_path


def test_classes_by_name_and_files_in_order(folder):
    inputs = open_inputs(folder, batch_size=3)
    assert (inputs.classes, inputs.whole, len(inputs)) == (("a", "b"), 4, 2)
    (x, y), (x2, y2) = inputs
    assert x.shape == (3, 3, 2, 3)
    assert torch.cat([y, y2]).tolist() == [0, 0, 0, 1]
    values = torch.cat([x, x2])[:, 0, 0, 0] * 255
    assert values.tolist() == pytest.approx([20, 10, 30, 0])  # 1.jpg, 2.PNG, deep/3.jpeg, then b


def test_pixels_are_normalised_by_channel(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("RGB", (1, 1), (255, 51, 0)).save(tmp_path / name / "0.png")
    ((x, _),) = open_inputs(tmp_path, mean=(0.5, 0.0, 1.0), std=(0.25, 1.0, 2.0))
    assert x[0].flatten().tolist() == pytest.approx([2.0, 0.2, -0.5])
    ((grey, _),) = open_inputs(tmp_path, mean=[0.0], std=[1.0])
    assert grey.shape == (2, 1, 1, 1)
    assert grey[0].item() * 255 == pytest.approx(0.299 * 255 + 0.587 * 51, abs=1)  # ITU-R 601


def test_resized_and_kept_at_their_size(folder):
    ((x, _),) = open_inputs(folder, size=(4, 5))
    assert x.shape == (4, 3, 4, 5)
    Image.new("RGB", (4, 4)).save(folder / "b" / "other.png")
    with pytest.raises(
        ValueError, match=r"images of one size, got 2x3 and, in .*other.png', 4x4. .*--size 2x3"
    ):
        open_inputs(folder)


def test_draws_rows_by_seed_in_their_own_order(tmp_path):
    np.savez(tmp_path / "n.npz", x=np.arange(100.0)[:, None], y=np.arange(100) % 7)
    (x, y), *_ = inputs = open_inputs(tmp_path / "n.npz", rows=10, seed=1)
    assert (len(y), inputs.whole, inputs.classes) == (10, 100, tuple("0123456"))
    assert torch.equal(x.flatten().long() % 7, y)
    assert x.flatten().diff().min() > 0
    again = next(iter(open_inputs(tmp_path / "n.npz", rows=10, seed=1)))
    assert torch.equal(x, again[0])
    assert not torch.equal(x, next(iter(open_inputs(tmp_path / "n.npz", rows=10, seed=2)))[0])


@pytest.mark.parametrize(("shape", "channels"), [((2, 4, 5), 1), ((2, 4, 5, 1), 1), ((2, 4, 5, 3), 3)])
def test_bytes_of_an_npz_are_images(tmp_path, shape, channels):
    pixels = np.random.default_rng(0).integers(256, size=shape).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels, y=[0, 1])
    ((x, _),) = open_inputs(tmp_path / "images.npz", mean=[0.0] * channels, std=[1.0] * channels)
    expected = pixels.reshape(2, 4, 5, channels).transpose(0, 3, 1, 2) / 255
    assert np.abs(x.numpy() - expected).max() < 1e-7


def test_other_numbers_of_an_npz_are_what_the_model_takes(tmp_path):
    np.savez(tmp_path / "n.npz", x=np.array([[300.0, -1.0]]), y=[1])
    ((x, y),) = open_inputs(tmp_path / "n.npz")
    assert (x.dtype, x.tolist(), y.tolist()) == (torch.float32, [[300.0, -1.0]], [1])


def saved(**arrays):
    def write(folder):
        np.savez(folder / "n.npz", **arrays)
        return {"path": folder / "n.npz"}

    return write


def broken_image(folder, classes="ab"):
    for name in classes:
        (folder / name).mkdir()
        (folder / name / "0.png").write_bytes(b"no image")
    return {"path": folder}


def empty_class(folder):
    (folder / "c").mkdir()
    return broken_image(folder)


def text_file(folder):
    (folder / "n.npz").write_text("no archive")
    return {"path": folder / "n.npz"}


WRONG = {
    "no classes": (lambda folder: {"path": folder}, "a folder of images .* for each class, got none in"),
    "empty class": (empty_class, "got none in '.*/c'. Name the folder"),
    "one class": (lambda folder: broken_image(folder, "a"), "at least two classes' folders, got 'a' alone"),
    "broken image": (broken_image, "Expected an image, got '.*0.png'.* Remove it"),
    "no y": (saved(x=np.zeros((2, 2))), "npz file with arrays x and y, got .*y is not a file"),
    "no archive": (text_file, "npz file with arrays x and y, got .*n.npz"),
    "pickles": (saved(x=np.array([{}], object), y=[0]), "npz file with arrays x and y, got .*allow_pickle"),
    "lengths": (
        saved(x=np.zeros((2, 2)), y=[0]),
        r"y of shape \(n,\), got float64 of shape \(2, 2\) and int64",
    ),
    "float labels": (saved(x=np.zeros((1, 2)), y=[0.0]), "classes 0, 1, … in y"),
    "negative": (saved(x=np.zeros((1, 2)), y=[-1]), "Drop rows that have no class"),
    "no rows": (saved(x=np.zeros((0, 2)), y=np.zeros(0, int)), "of shape \\(0,\\)"),
    "channels first": (
        saved(x=np.zeros((1, 3, 8, 8), np.uint8), y=[0]),
        "channels last, 3 as in mean and std",
    ),
    "grey": (saved(x=np.zeros((1, 8, 8), np.uint8), y=[0]), "Give one mean and std for grey"),
    "size": (lambda f: {**saved(x=np.zeros((1, 2)), y=[0])(f), "size": (2, 2)}, "no size for an npz"),
    "std": (lambda f: {"path": f, "std": (0.0, 1.0, 1.0)}, "std above 0"),
    "two channels": (lambda f: {"path": f, "mean": [0, 0], "std": [1, 1]}, "one channel .* or three"),
    "rows": (lambda f: {"path": f, "rows": 0}, "Expected rows to be a whole number >= 1"),
    "batches": (lambda f: {"path": f, "batch_size": 0}, "Expected batch_size to be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_named(tmp_path, case):
    prepare, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        open_inputs(**prepare(tmp_path))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_inputs(tmp_path / "none.npz")
