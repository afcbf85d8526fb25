"""Shapes of data sets that need not be there, and images made in them."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal.experiments.datasets import SOURCES, open_dataset  # noqa: E402
from focalcal.experiments.shapes import SHAPES, made_images, shape_of  # noqa: E402


def test_shapes_are_those_of_the_data_sets():
    digits = open_dataset("digits")
    assert shape_of("digits") == shape_of("mine.npz", digits) == SHAPES["digits"]
    assert shape_of("cifar10", digits) == SHAPES["cifar10"]  # a study may have a file beside it
    for name, source in SOURCES.items():
        assert SHAPES[name].classes == source.classes
        assert SHAPES[name].val == 5000
        assert SHAPES[name].train == {"cifar10": 45_000, "cifar100": 45_000, "tinyimagenet": 100_000}[name]


def test_made_images():
    made, again, other = (made_images("cifar100", 50, seed) for seed in (1, 1, 2))
    assert made.train.x.dtype == torch.uint8
    assert torch.equal(made.test.x, again.test.x)
    assert not torch.equal(made.test.x, other.test.x)
    assert not torch.equal(made.test.x, made.train.x)
    assert 10 < int(made.train.y.max()) < 100
    assert shape_of("mine.npz", made) == (3, 32, 100, 50, 50)
    with pytest.raises(ValueError, match="Expected rows to be a whole number"):
        made_images("digits", 0)
