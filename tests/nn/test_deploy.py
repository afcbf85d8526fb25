"""Fitted calibrators as modules: what `transform` says, on every kind of tensor, saved and exported."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from cases import drawn
from fitted import assert_close, fitted, hard_rows
from focalcal import FocalTemperatureScaling, TemperatureScaling, inverse_focal_map
from focalcal.nn import CalibratedModel, FocalCalibrationMap, FocalTemperature, focal_loss, to_module

LAYERS = [FocalTemperature(1.7, 2.0), FocalTemperature(0.6, -0.5), FocalTemperature(1.7, 2.0, learnable=True)]


@pytest.mark.parametrize("gamma", [None, -1.0, -0.3, 0.0, 1.0, 5.0])
@pytest.mark.parametrize("n_classes", [2, 10, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_the_module_is_the_calibrators_map(gamma, n_classes, dtype, tolerance):
    cal, z = fitted(n_classes, 1.7, gamma), hard_rows(n_classes)
    found = to_module(cal)(torch.from_numpy(z).to(dtype))
    assert found.dtype == dtype
    true = cal.transform(z.astype(float))
    assert_close(found.numpy(), true, 5 * tolerance)  # of a nat, or of the value
    np.testing.assert_allclose(found.exp().numpy(), np.exp(true), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_probabilities_are_taken_where_they_were_declared(dtype):
    cal = fitted(4, 0.8, 1.5, input="probs")
    p = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(4), size=20)).to(dtype)
    p[0] = torch.tensor([1.0, 0, 0, 0])
    found = to_module(cal)(p)
    assert_close(found.numpy(), cal.transform(p.numpy()), 1e-12 if dtype == torch.float64 else 2e-6)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_shapes_and_precisions(layer):
    z = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    z[0, 1, 2, 3] = -torch.inf
    rows = layer(z.movedim(1, -1).reshape(-1, 5))
    torch.testing.assert_close(layer(z).movedim(1, -1).reshape(-1, 5), rows, rtol=0, atol=1e-14)
    torch.testing.assert_close(layer(z[0, :, 0, 0]), rows[0], rtol=0, atol=1e-14)
    assert layer(z[:0, :, 0, 0]).shape == (0, 5)
    for half in (torch.float16, torch.bfloat16):
        narrow = z.to(half)
        assert layer(narrow).dtype == torch.float32
        torch.testing.assert_close(layer(narrow), layer(narrow.float()), rtol=0, atol=0)


def test_large_logits_keep_their_differences():
    far = torch.tensor([[5000.0, 5001.0, 4998.0]])
    near = torch.tensor([[0.0, 1.0, -2.0]])
    for layer in LAYERS:
        torch.testing.assert_close(layer(far), layer(near), rtol=0, atol=0)


def test_learnt_by_likelihood_it_is_the_fitted_calibrator():
    z, y = drawn(3000, 4, 2.0, seed=1, gamma=1.5)
    cal = FocalTemperatureScaling().fit(2 * z, y)
    logits, labels = torch.from_numpy(2 * z), torch.from_numpy(y)
    layer = FocalTemperature(learnable=True).double()
    optimiser = torch.optim.LBFGS(
        layer.parameters(), max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = torch.nn.functional.nll_loss(layer(logits), labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    assert layer.temperature.item() == pytest.approx(cal.temperature_, rel=1e-4)
    assert layer.gamma.item() == pytest.approx(cal.gamma_, rel=1e-4)


def test_masked_classes_do_not_spoil_what_is_learnt():
    layer = FocalTemperature(0.5, 1.0, learnable=True)
    z = torch.tensor([[1.0, 2.0, -torch.inf], [3.0, -torch.inf, -torch.inf]], requires_grad=True)
    found = layer(z)
    assert torch.equal(torch.isneginf(found), torch.isneginf(z))
    found[0, 0].backward()
    assert z.grad[1].eq(0).all()
    assert z.grad[0, 2] == 0
    two = FocalTemperature(0.5, 1.0, learnable=True)
    two(z[:1, :2].detach())[0, 0].backward()
    for one, other in zip(layer.parameters(), two.parameters()):
        torch.testing.assert_close(one.grad, other.grad)
        assert one.grad.abs() > 0.01


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_saved_and_loaded_it_is_the_same(layer, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="the file format is optional")
    model = CalibratedModel(torch.nn.Linear(3, 4), layer)
    z = torch.randn(6, 3)
    safetensors.save_file(model.state_dict(), tmp_path / "model.safetensors")
    states = {"dict": model.state_dict(), "file": safetensors.load_file(tmp_path / "model.safetensors")}
    for state in states.values():
        other = CalibratedModel(torch.nn.Linear(3, 4), FocalTemperature(1.0, 0.5, layer.learnable))
        assert not torch.equal(other(z), model(z))
        other.load_state_dict(state)
        assert torch.equal(other(z), model(z))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(z), model(z))
        assert repr(twin) == repr(model)


def test_no_cast_rounds_a_frozen_temperature():
    layer = FocalTemperature(1 / 3, 0.7)
    again = FocalTemperature()
    again.load_state_dict(layer.half().state_dict())
    assert again.temperature.item() == 1 / 3
    assert again.gamma.item() == 0.7
    assert repr(layer) == "FocalTemperature(temperature=0.3333, gamma=0.7, learnable=False)"


def test_a_default_device_does_not_lose_the_state():
    layer = FocalTemperature(1.7, 0.3)
    with torch.device("meta"):
        state = layer.state_dict()
        other = FocalTemperature()
        other.load_state_dict(state)
    assert (other.temperature.item(), other.gamma.item()) == (1.7, 0.3)


def test_states_that_do_not_fit():
    with pytest.raises(ValueError, match="state of a FocalTemperature with learnable=False, got that of ano"):
        FocalTemperature().load_state_dict(FocalTemperature(learnable=True).state_dict(), strict=False)
    state = FocalTemperature().state_dict()
    state["_extra_state"][0] = -1.0
    with pytest.raises(ValueError, match="Expected a finite temperature > 0, got -1"):
        FocalTemperature().load_state_dict(state)


@pytest.mark.parametrize("layer", [*LAYERS, FocalCalibrationMap(2.0)], ids=str)
def test_exported_with_a_free_number_of_rows(layer):
    model = CalibratedModel(torch.nn.Linear(3, 4), layer).eval()
    shapes = {"args": ({0: torch.export.Dim("n")},)}
    exported = torch.export.export(model, (torch.randn(5, 3),), dynamic_shapes=shapes).module()
    for n in (2, 9):
        x = torch.randn(n, 3)
        torch.testing.assert_close(exported(x), model(x))


@pytest.mark.slow
def test_images_are_exported_and_everything_compiles():
    layer = FocalTemperature(1.7, 2.0)
    free = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    exported = torch.export.export(layer, (torch.randn(2, 4, 5, 6),), dynamic_shapes=(free,)).module()
    image = torch.randn(3, 4, 7, 2)
    torch.testing.assert_close(exported(image), layer(image))
    for layer in (LAYERS[0], LAYERS[2]):
        torch._dynamo.reset()
        model = CalibratedModel(torch.nn.Linear(3, 4), layer)
        x = torch.randn(5, 3)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), model(x))


def test_the_map_gives_back_the_posterior_of_a_model_trained_with_focal_loss():
    posterior = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(4), size=7))
    x = torch.eye(7, dtype=torch.float64)
    model = torch.nn.Linear(7, 4, bias=False).double()
    optimiser = torch.optim.LBFGS(
        model.parameters(),
        max_iter=2000,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        loss = focal_loss(model(x), posterior, 2.0)
        loss.backward()
        return loss

    optimiser.step(closure)
    calibrated = CalibratedModel(model, FocalCalibrationMap(2.0))(x).exp()
    assert (model(x).softmax(1) - posterior).abs().amax(1).min() > 0.02
    torch.testing.assert_close(calibrated, posterior, rtol=0, atol=1e-6)
    # what the model had to learn, from the map's inverse in NumPy
    softmax = torch.from_numpy(np.exp(inverse_focal_map(posterior.log().numpy(), 2.0)))
    torch.testing.assert_close(model(x).softmax(1), softmax, rtol=0, atol=1e-6)


def test_wrong_settings_and_scores():
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="Expected a finite temperature > 0, got"):
            FocalTemperature(wrong)
    with pytest.raises(ValueError, match="Expected a finite gamma >= -1, got -2"):
        FocalTemperature(1.0, -2.0)
    with pytest.raises(ValueError, match="Expected gamma > -1 for a learnable map, got -1"):
        FocalTemperature(1.0, -1.0, learnable=True)
    for scores in (
        torch.zeros(4, 1),
        torch.zeros(4, 3, dtype=torch.int64),
        torch.tensor(1.0),
        torch.zeros(1),
    ):
        with pytest.raises(ValueError, match="with 2 classes or more, got"):
            FocalTemperature()(scores)
    with pytest.raises(TypeError, match="Expected a calibrator of focalcal, got float"):
        to_module(1.5)
    with pytest.raises(NotFittedError):
        to_module(TemperatureScaling())
