"""Weights of every usual wrapping, and files that hold more than weights: they are refused, not unpickled."""

import sys
import types

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")
from focalcal.experiments import load_weights, mlp, named_model  # noqa: E402


def weights():
    torch.manual_seed(1)
    return mlp(2, 3, hidden=(4,)).state_dict()


def prefixed(prefix):
    return {prefix + name: value for name, value in weights().items()}


WRAPPED = {
    "bare": lambda: weights(),
    "state_dict": lambda: {"state_dict": weights(), "epoch": 3, "best": 0.9},
    "model": lambda: {"model": weights(), "optimizer": {"lr": 0.1}},
    "nested": lambda: {"state_dict": {"model": weights()}},
    "DataParallel": lambda: prefixed("module."),
    "compiled": lambda: prefixed("_orig_mod."),
    "both": lambda: {"model_state_dict": prefixed("_orig_mod.module.")},
    "Lightning": lambda: {"state_dict": prefixed("model."), "hyper_parameters": {"gamma": 2.0}},
}


@pytest.mark.parametrize("case", WRAPPED)
def test_weights_however_they_were_kept(tmp_path, case):
    torch.save(WRAPPED[case](), tmp_path / "net.pt")
    model = mlp(2, 3, hidden=(4,))
    load_weights(model, tmp_path / "net.pt")
    assert all(torch.equal(value, weights()[name]) for name, value in model.state_dict().items())


def test_a_module_that_is_called_as_a_wrapper_keeps_its_name(tmp_path):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Linear(1, 2)

    first, second = Net(), Net()
    torch.save(first.state_dict(), tmp_path / "net.pt")
    load_weights(second, tmp_path / "net.pt")
    assert torch.equal(first.model.weight, second.model.weight)


def test_safetensors(tmp_path):
    library = pytest.importorskip("safetensors.torch", reason="safetensors is not a dependency")
    library.save_file(prefixed("module."), tmp_path / "net.safetensors")
    model = mlp(2, 3, hidden=(4,))
    load_weights(model, tmp_path / "net.safetensors")
    assert torch.equal(model[1].weight, weights()["1.weight"])
    (tmp_path / "net.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match="Expected a safetensors file, got"):
        load_weights(model, tmp_path / "net.safetensors")


class Trap:
    """What a pickle could run."""

    ran = False

    def __reduce__(self):
        return Trap.spring, ()

    @staticmethod
    def spring():
        Trap.ran = True
        return {}


@pytest.mark.parametrize("kept", [Trap(), {"state_dict": weights(), "extra": Trap()}, mlp(1, 2)])
def test_nothing_is_unpickled(tmp_path, kept):
    torch.save(kept, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"could run code: .* Keep the weights alone with torch.save\(model"):
        load_weights(mlp(2, 3, hidden=(4,)), tmp_path / "net.pt")
    assert not Trap.ran


def test_files_that_hold_no_weights(tmp_path):
    model, path = mlp(2, 3, hidden=(4,)), tmp_path / "net.pt"
    with pytest.raises(FileNotFoundError, match="Expected a file of weights, got none at"):
        load_weights(model, path)
    path.write_text("text")
    with pytest.raises(ValueError, match="Expected a state dict"):
        load_weights(model, path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="Expected a state dict"):
        load_weights(model, path)
    for kept, kind in [({"epoch": 1}, "dict"), (torch.zeros(2), "Tensor")]:
        torch.save(kept, path)
        with pytest.raises(ValueError, match=f"got {kind} without tensors"):
            load_weights(model, path)


def test_weights_of_another_model(tmp_path):
    torch.save(weights(), tmp_path / "net.pt")
    with pytest.raises(
        ValueError, match=r"weights of this model in .* got others: size mismatch for 1.weight"
    ):
        load_weights(mlp(2, 3, hidden=(5,)), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r'got others: Missing key\(s\) in state_dict: "5.weight"'):
        load_weights(mlp(2, 3, hidden=(4, 4)), tmp_path / "net.pt")


def test_models_by_name(tmp_path, monkeypatch):
    assert named_model("resnet20", {"classes": 3})(torch.zeros(1, 3, 8, 8)).requires_grad
    assert isinstance(named_model("torch.nn:Linear", {"in_features": 1, "out_features": 2}), torch.nn.Linear)
    (tmp_path / "my_net.py").write_text(
        "import torch\nclass Zoo:\n    make = lambda: torch.nn.Linear(2, 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    try:
        assert isinstance(named_model("my_net:Zoo.make"), torch.nn.Linear)
    finally:
        sys.modules.pop("my_net", None)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("resnet21", {}, ValueError, "one of cifar_resnet, .* got 'resnet21'. Did you mean 'resnet20'"),
        ("nowhere:net", {}, ValueError, "got 'nowhere:net': No module named 'nowhere'. .*current folder"),
        ("torch.nn:Nothing", {}, ValueError, "has no attribute 'Nothing'"),
        (":net", {}, ValueError, "package.module:function, got ':net': Empty module name"),
        ("torch:pi", {}, ValueError, "a function or class that makes the model, got float"),
        ("torch:get_num_threads", {}, TypeError, "to return a torch.nn.Module, got int"),
        ("resnet20", {"width": 2}, TypeError, "arguments that resnet20 takes, got .*'width'.* JSON object"),
        ("small_cnn", {}, TypeError, "missing 3 required positional arguments"),
    ],
)
def test_wrong_names_and_arguments(name, arguments, error, message):
    with pytest.raises(error, match=message):
        named_model(name, arguments)


def test_a_model_is_not_what_makes_one(monkeypatch):
    module = types.ModuleType("made_already")
    module.net = torch.nn.Linear(1, 1)
    monkeypatch.setitem(sys.modules, "made_already", module)
    with pytest.raises(ValueError, match="a function or class that makes the model, got Linear"):
        named_model("made_already:net")
