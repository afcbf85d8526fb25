"""Calibration errors against torchmetrics, on confidences where its bins agree with the textbook's.

torchmetrics keeps float32 counters, takes bins [l, u) and gives confidence 1.0 a bin of its own, so the
confidences here lie strictly inside the bins and below 1.
"""

import pytest

from focalcal import classwise_ece, ece
from predictions import draw, softmax

torch = pytest.importorskip("torch", reason="torchmetrics needs torch")
functional = pytest.importorskip(
    "torchmetrics.functional.classification", reason="torchmetrics is an oracle, not a dependency"
)


@pytest.mark.parametrize("bins", [10, 15, 20])
@pytest.mark.parametrize("k", [3, 10])
@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_multiclass(bins, k, norm):
    z, y = draw(2000, k, seed=bins)
    p = softmax(z)
    theirs = functional.multiclass_calibration_error(
        torch.from_numpy(p), torch.from_numpy(y), num_classes=k, n_bins=bins, norm=norm
    )
    # "l2" is a root in both
    assert ece(y, p, bins=bins, norm=norm).value == pytest.approx(float(theirs), abs=2e-6)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_binary_of_the_positive_class(norm):
    # theirs bins the probability of class 1, which is one row of the class-wise error
    z, y = draw(2000, 2, seed=1)
    p = softmax(z)[:, 1].copy()
    theirs = functional.binary_calibration_error(
        torch.from_numpy(p), torch.from_numpy(y), n_bins=15, norm=norm
    )
    assert classwise_ece(y, p, norm=norm).value == pytest.approx(float(theirs), abs=2e-6)
    assert ece(y, p, of_class=1, norm=norm).value == pytest.approx(float(theirs), abs=2e-6)


def test_the_known_disagreement_at_confidence_one():
    p = torch.tensor([[0.05, 0.95], [0.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([1, 0])
    theirs = float(functional.multiclass_calibration_error(p, y, num_classes=2, n_bins=15, norm="l1"))
    assert theirs == pytest.approx((0.05 + 1) / 2, abs=1e-6)  # two bins; the textbook has one
    assert ece(y.numpy(), p.numpy()).value == pytest.approx(0.475, abs=1e-12)
