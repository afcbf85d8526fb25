"""Focal matrix scaling as a layer: what the calibrator does, on any shape, saved and exported."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from cases import drawn  # noqa: E402
from fitted import assert_close, hard_rows  # noqa: E402
from focalcal import FocalMatrixScaling, MixedTemperatureScaling  # noqa: E402
from focalcal.nn import calibrate, to_module  # noqa: E402


def mixed(share):
    z, y = drawn(600, 5, 2.0, seed=0)
    cal = MixedTemperatureScaling(share=min(share, 0.9)).fit(2 * z, y)
    cal.share_ = share  # a fit may end at 1
    return cal


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("share", [0.0, 1e-5, 0.02, 1.0])
def test_mixed_temperature_scaling_is_a_layer(share, dtype, tolerance):
    cal, z = mixed(share), hard_rows(5)
    found = to_module(cal)(torch.from_numpy(z).to(dtype))
    assert found.dtype == dtype
    assert_close(found.numpy().astype(np.float64), cal.transform(z.astype(np.float64)), tolerance)


def test_mixed_temperature_scaling_is_saved_exported_and_takes_images(tmp_path):
    layer, other = to_module(mixed(0.02)), to_module(mixed(0.1))
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    z = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(other(z), layer(z))
    torch.testing.assert_close(layer(z)[1, :, 2, 3], layer(z[1, :, 2, 3]))
    torch.testing.assert_close(torch.export.export(layer, (z,)).module()(z), layer(z))
    assert "share=0.02" in repr(layer)


def calibrator(n_classes=5, input="logits", gamma=None, share=None):
    z, y = drawn(600, n_classes, 2.0, seed=0)
    z[:, 0] += 0.5 * z[:, 1]
    cal = FocalMatrixScaling(penalty=1.0, input=input)
    p = np.exp(z - np.logaddexp.reduce(z, axis=1, keepdims=True))
    cal.fit(p if input == "probs" else z, y)
    if gamma is not None:
        cal.gamma_ = gamma
    if share is not None:
        cal.uniform_share_ = share
    return cal


@pytest.mark.parametrize("gamma", [-1.0, -0.4, 0.0, 2.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("n_classes", [2, 5, 40])
@pytest.mark.parametrize("share", [0.0, 1e-5, 0.02])
def test_the_layer_is_the_calibrators_map(gamma, dtype, tolerance, n_classes, share):
    cal = calibrator(n_classes, gamma=gamma, share=share)
    z = hard_rows(n_classes)
    found = to_module(cal)(torch.from_numpy(z).to(dtype))
    assert found.dtype == dtype
    assert_close(found.numpy().astype(np.float64), cal.transform(z.astype(np.float64)), tolerance)


def test_probabilities_images_and_single_rows():
    cal = calibrator(input="probs")
    p = torch.softmax(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).double(), 1)
    np.testing.assert_allclose(to_module(cal)(p), cal.transform(p), atol=1e-10)
    layer = to_module(calibrator())
    z = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    found = layer(z)
    assert found.shape == z.shape
    torch.testing.assert_close(found[1, :, 2, 3], layer(z[1, :, 2, 3]))
    assert layer(z.half()).dtype == torch.float32


@pytest.mark.parametrize("share", [0.0, 0.03])
def test_saved_exported_and_trained_through(tmp_path, share):
    layer = to_module(calibrator(share=share))
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = to_module(calibrator(gamma=3.0))
    other.prior_share = 0.3
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(2)).requires_grad_()
    torch.testing.assert_close(other(z), layer(z))
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(layer, (z.detach(),), dynamic_shapes=({0: rows},))
    more = torch.randn(9, 5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(program.module()(more), layer(more))
    layer(z)[:, 0].sum().backward()
    assert torch.isfinite(z.grad).all()


def test_one_call_fits_and_attaches_it():
    z, y = drawn(300, 4, 2.0, seed=5)
    data = [(torch.from_numpy(z[:150]), torch.from_numpy(y[:150]))]
    data += [(torch.from_numpy(z[150:]), torch.from_numpy(y[150:]))]
    model = calibrate(torch.nn.Identity(), data, FocalMatrixScaling(penalty=2.0))
    expected = FocalMatrixScaling(penalty=2.0).fit(z, y).transform(z)
    np.testing.assert_allclose(model(torch.from_numpy(z)).numpy(), expected, atol=1e-8)


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match="with 5 classes"):
        to_module(calibrator())(torch.zeros(3, 4))
