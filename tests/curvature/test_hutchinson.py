"""Hutchinson's trace: exact for diagonal matrices, and covering for others."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from focalcal import curvature  # noqa: E402
from focalcal.curvature import LossSurface, hutchinson_trace  # noqa: E402


def test_exported_names():
    assert curvature.__all__ == [
        "SAM",
        "CalibratorCurvature",
        "Curvature",
        "CurvatureRecorder",
        "Eigenvalues",
        "GradientNormPenalty",
        "Landscape",
        "LossCurvature",
        "LossSurface",
        "SpectralDensity",
        "TracePenalty",
        "calibrator_curvature",
        "hutch_pp_trace",
        "hutchinson_trace",
        "landscape",
        "layer_traces",
        "logistic_hessian",
        "measure",
        "spectral_density",
        "structured_trace",
        "top_eigenvalues",
        "xtrace",
    ]


def problem():
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x, y = torch.randn(30, 3, dtype=torch.double), torch.arange(30) % 2
    surface = LossSurface(net, F.cross_entropy, [(x[:16], y[:16]), (x[16:], y[16:])])
    return surface, torch.eye(surface.size, dtype=torch.double)


def test_a_diagonal_matrix_is_found_exactly():
    net = nn.Linear(3, 1, bias=False).double()
    x = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3]], dtype=torch.double)
    surface = LossSurface(net, nn.MSELoss(), [(x, torch.zeros(3, 1, dtype=torch.double))])
    for matrix in ("hessian", "ggn"):
        found = hutchinson_trace(surface, probes=2, matrix=matrix)
        assert (found.value, found.stderr) == pytest.approx((2 * 14 / 3, 0.0), abs=1e-12)


class Dense:
    """A surface whose products are those of a matrix."""

    def __init__(self, surface, matrix):
        self.size, self.parameters = surface.size, surface.parameters
        self.product = lambda name: lambda vectors: matrix @ vectors


# the GGN of two classes is carried by few eigenvalues, which makes the probes' distribution skewed
@pytest.mark.parametrize(("matrix", "coverage"), [("hessian", 0.93), ("ggn", 0.9)])
def test_intervals_cover_and_errors_are_those_of_theory(matrix, coverage):
    surface, eye = problem()
    dense = surface.hessian_product(eye) if matrix == "hessian" else surface.ggn_product(eye)
    fast = Dense(surface, dense.clone())
    alike = [hutchinson_trace(one, probes=9, matrix=matrix).value for one in (surface, fast)]
    assert alike[0] == pytest.approx(alike[1], rel=1e-10)
    truth = float(dense.trace())
    dense.fill_diagonal_(0)
    spread = float((2 * dense.square().sum()).sqrt())  # of one probe
    found = [hutchinson_trace(fast, probes=9, matrix=matrix, seed=seed) for seed in range(1000)]
    values = np.array([e.value for e in found])
    assert abs(values.mean() - truth) < 3 * spread / np.sqrt(9 * 1000)
    assert values.std() == pytest.approx(spread / 3, rel=0.1)
    assert np.mean([e.low <= truth <= e.high for e in found]) >= coverage
    assert np.mean([e.stderr**2 for e in found]) ** 0.5 == pytest.approx(spread / 3, rel=0.1)


def test_a_seed_repeats_and_probes_come_in_blocks():
    surface, _ = problem()
    first, again, other = (hutchinson_trace(surface, probes=11, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first.value != other.value
    assert first.n == 11


def test_wrong_settings():
    surface, _ = problem()
    with pytest.raises(ValueError, match="Expected at least 2 probes"):
        hutchinson_trace(surface, probes=1)
    with pytest.raises(ValueError, match="Expected matrix to be one of 'hessian', 'ggn'"):
        hutchinson_trace(surface, matrix="fisher")
    with pytest.raises(ValueError, match="Expected level between 0 and 1"):
        hutchinson_trace(surface, level=95)
