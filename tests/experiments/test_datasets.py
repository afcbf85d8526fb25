"""Data sets from archives of the published form, made here, and what is said of other files."""

import gzip
import hashlib
import io
import re
import struct
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal.experiments import datasets  # noqa: E402
from focalcal.experiments.datasets import open_dataset  # noqa: E402


def published(monkeypatch, name, folder, content):
    """Put an archive where it is looked for, as if its checksum were the published one."""
    source = datasets.SOURCES[name]
    digest = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(datasets.SOURCES, name, replace(source, md5=digest, held_out=min(source.held_out, 4)))
    (folder / source.file).write_bytes(content)


def packed(files):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return held.getvalue()


def records(labels, first):
    """Rows whose pixels tell their number, channel and place."""
    pixels = np.arange(3 * 32 * 32).reshape(3, 32, 32) % 97
    rows = [
        bytes(label) + ((pixels + first + i) % 251).astype(np.uint8).tobytes()
        for i, label in enumerate(labels)
    ]
    return b"".join(rows)


@pytest.mark.parametrize(("name", "coarse"), [("cifar10", ()), ("cifar100", (7,))])
def test_cifar(name, coarse, tmp_path, monkeypatch):
    test_file = "test_batch.bin" if name == "cifar10" else "test.bin"
    train_files = [f"data_batch_{i}.bin" for i in range(1, 6)] if name == "cifar10" else ["train.bin"]
    files = {file: records([(*coarse, j) for j in range(3)], 10 * i) for i, file in enumerate(train_files)}
    if name == "cifar100":
        files["train.bin"] = records([(*coarse, j) for j in range(15)], 0)
    published(monkeypatch, name, tmp_path, packed(files | {test_file: records([(*coarse, 9)], 200)}))
    found = open_dataset(name, tmp_path)
    assert (len(found.train), len(found.val), len(found.test)) == (11, 4, 1)
    assert found.test.y.tolist() == [9]
    pixels = np.arange(3 * 32 * 32).reshape(3, 32, 32) % 97
    np.testing.assert_array_equal(found.test.x[0].numpy(), (pixels + 200) % 251)
    assert found.test.x.dtype == torch.uint8
    labels = torch.cat([found.train.y, found.val.y])
    assert sorted(labels.tolist()) == sorted([0, 1, 2] * 5 if name == "cifar10" else range(15))
    again, other = open_dataset(name, tmp_path), open_dataset(name, tmp_path, seed=2)
    assert torch.equal(again.val.x, found.val.x)
    assert not torch.equal(other.val.x, found.val.x)
    images = {bytes(x.numpy()) for part in (found.train, found.val) for x in part.x}
    assert len(images) == 15  # no image is in both


def test_tinyimagenet_halves_its_validation_images(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="images need Pillow, which comes with matplotlib")
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("tiny-imagenet-200/wnids.txt", "n02\nn01\n")
        lines = [f"val_{i}.JPEG\t{'n01' if i < 3 else 'n02'}\t0\t0\t1\t1\n" for i in range(6)]
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", "".join(lines))
        names = [f"train/{c}/images/{c}_{i}.JPEG" for c in ("n01", "n02") for i in range(2)]
        names += [f"val/images/val_{i}.JPEG" for i in range(6)] + ["test/images/test_0.JPEG"]
        for name in names:
            file = io.BytesIO()
            colour = 250 if "n02" in name else 5
            image.fromarray(np.full((64, 64), colour, np.uint8)).save(file, "JPEG")  # grey, as some are
            archive.writestr(f"tiny-imagenet-200/{name}", file.getvalue())
    published(monkeypatch, "tinyimagenet", tmp_path, held.getvalue())
    found = open_dataset("tinyimagenet", tmp_path)
    assert (len(found.train), len(found.val), len(found.test)) == (4, 3, 3)
    assert found.train.y.tolist() == [0, 0, 1, 1]
    assert found.train.x.shape == (4, 3, 64, 64)
    assert (found.train.x.float().mean((1, 2, 3)) > 128).tolist() == [False, False, True, True]
    assert sorted([*found.val.y.tolist(), *found.test.y.tolist()]) == [0, 0, 0, 1, 1, 1]


def test_fashion_mnist_of_any_folder(tmp_path):
    for part, n in (("train", 6010), ("t10k", 5)):
        pixels = (np.arange(n * 6).reshape(n, 2, 3) % 256).astype(np.uint8)
        header = struct.pack(">4B3i", 0, 0, 8, 3, n, 2, 3)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
        labels = struct.pack(">4Bi", 0, 0, 8, 1, n) + bytes(i % 10 for i in range(n))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    found = open_dataset("fashion-mnist", tmp_path)
    assert (len(found.train), len(found.val), len(found.test)) == (10, 6000, 5)
    assert found.test.x.shape == (5, 1, 2, 3)
    assert found.test.x[1].flatten().tolist() == list(range(6, 12))


def test_digits_and_smaller():
    found = open_dataset("digits")
    whole = torch.cat([part.x for part in (found.train, found.val, found.test)])
    x, _ = load_digits(return_X_y=True)
    assert whole.float().mean() == pytest.approx(x.mean() * 255 / 16, rel=1e-3)
    scaled = found.normalised(found.train.x)
    assert abs(float(scaled.mean())) < 0.05
    assert float(scaled.std()) == pytest.approx(1, abs=0.05)
    small = found.smaller(20)
    assert (len(small.train), len(small.val), len(small.test)) == (20, 20, 20)
    assert torch.equal(small.train.x, found.smaller(20).train.x)


def test_npz(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(12, 4, 4, 3), dtype=np.uint8), np.arange(12) % 3
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2], val_mask=y == 2)
    found = open_dataset(str(tmp_path / "own.npz"))
    assert (found.name, found.classes) == ("own", 3)
    assert found.val.y.tolist() == [2, 2, 2, 2]
    assert len(found.train) == 8
    np.savez(tmp_path / "plain.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    assert len(open_dataset(str(tmp_path / "plain.npz")).val) == 3


def test_what_is_said_of_other_files(tmp_path):
    message = f"Expected cifar-10-binary.tar.gz in {re.escape(str(tmp_path))}, found no such file. Download"
    with pytest.raises(FileNotFoundError, match=message):
        open_dataset("cifar10", tmp_path)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"checksum c32a1d4ab5d03f1284b67883e8d87530 \(MD5\), got"):
        open_dataset("cifar10", tmp_path)
    with pytest.raises(ValueError, match="Expected name to be one of 'cifar10', 'cifar100'"):
        open_dataset("imagenet", tmp_path)
    np.savez(tmp_path / "wrong.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="Expected an npz file with x_train"):
        open_dataset(str(tmp_path / "wrong.npz"))
    np.savez(
        tmp_path / "floats.npz", **dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.zeros(3))
    )
    with pytest.raises(ValueError, match="Expected images of uint8, got float64"):
        open_dataset(str(tmp_path / "floats.npz"))
