"""The published numbers: those of the sources, for nets and losses that there are."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal.experiments.recipes import LOSSES, NETS, published, small  # noqa: E402
from focalcal.experiments.scaling.published_tables import ADAFOCAL, is_published, printed  # noqa: E402

#: Some of the README's row for ResNet-50 and DenseNet-121, and of the manuscript's other data sets, by hand.
KNOWN = {
    ("cifar10", "resnet50", "brier"): (1.82, 1.08, 1.1),
    ("cifar10", "resnet50", "focal-3"): (1.48, 1.42, 1.1),
    ("cifar10", "resnet50", "flsd-53"): (1.55, 0.95, 1.1),
    ("cifar10", "densenet121", "focal-3"): (1.32, 1.26, 0.9),
    ("cifar100", "resnet110", "adafocal"): (1.3, 1.3, 1.0),
    ("cifar100", "densenet121", "ce"): (20.98, 4.27, 2.3),
    ("tinyimagenet", "resnet50", "adafocal"): (2.41, 2.25, 0.96),
}


def test_numbers_are_those_of_the_tables():
    found = {one.name: one for one in printed()}
    assert len(found) == len(printed()) == 4 * 5 + 5 * 4
    for name, numbers in KNOWN.items():
        one = found[name]
        assert (one.before, one.after, one.temperature) == numbers
        assert (one.source == ADAFOCAL) == (one.loss == "adafocal")
    for one in printed():
        assert one.net in NETS
        assert one.loss in LOSSES
        assert one.after <= one.before < 25
        assert is_published(published(one.data, one.net, one.loss, 7))


def test_another_schedule_is_another_set_up():
    recipe = published("cifar10", "resnet50", "ce")
    assert is_published(replace(recipe, precision="bfloat16", seed=4))
    assert not is_published(replace(recipe, epochs=349))
    assert not is_published(small("cifar10", "resnet50", "ce"))
