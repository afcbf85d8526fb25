"""Models by name, and their weights from a file; nothing is unpickled."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch

from focalcal.io.files import did_you_mean

#: Where training programs put the weights, and what wrappers put before every name.
_KEYS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def named_model(name: str, arguments: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """Return what a function that makes a model returns.

    Parameters
    ----------
    name : str
        A network of `focalcal.experiments`, such as "resnet20", or "package.module:function". Modules in the
        current folder can be named. The module's code is run.
    arguments : dict, optional
        Keyword arguments of the function.

    Returns
    -------
    torch.nn.Module
        With its first weights.

    Raises
    ------
    ValueError, TypeError
        For a module or function that is not there, arguments that it does not take, or another result.

    Examples
    --------
    >>> sum(p.numel() for p in named_model("mlp", {"inputs": 2, "classes": 2, "hidden": [3]}).parameters())
    17
    """
    make = _factory(name)
    try:
        model = make(**(arguments or {}))
    except TypeError as error:
        raise TypeError(
            f"Expected arguments that {name} takes, got {dict(arguments or {})}: {error}. "
            "Give them as a JSON object (--model-args)."
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"Expected {name} to return a torch.nn.Module, got {type(model).__name__}.")
    return model


def _factory(name: str) -> Any:
    from focalcal import experiments

    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in experiments.NETS:
            raise ValueError(
                f"Expected a model as package.module:function, or one of {', '.join(experiments.NETS)}, got "
                f"{name!r}.{did_you_mean(name, experiments.NETS)}"
            )
        return getattr(experiments, name)
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"Expected a model as package.module:function, got {name!r}: {error}. Modules are looked "
            "for in the current folder and among what is installed."
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(found) or isinstance(found, torch.nn.Module):
        raise ValueError(
            f"Expected {name} to be a function or class that makes the model, got {type(found).__name__}."
        )
    return found


def load_weights(model: torch.nn.Module, path: str | os.PathLike[str]) -> None:
    """Give a model the weights of a file.

    Parameters
    ----------
    model : torch.nn.Module
        Of the architecture that the weights are of.
    path : str or path-like
        A state dict kept by torch.save, alone or in a dict under "state_dict", "model_state_dict" or "model";
        or a .safetensors file. Names may begin with what DataParallel, torch.compile or Lightning add.

    Raises
    ------
    ValueError, FileNotFoundError
        For a file with more than tensors, or weights that are not of this model.

    Examples
    --------
    >>> import tempfile
    >>> model, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"state_dict": model.state_dict()}, f"{folder}/model.pt")
    ...     load_weights(other, f"{folder}/model.pt")
    >>> torch.equal(model.weight, other.weight)
    True
    """
    weights = _read(path)
    for key in _KEYS:
        if isinstance(weights, Mapping) and isinstance(weights.get(key), Mapping):
            weights = weights[key]
    if not isinstance(weights, Mapping) or not any(isinstance(one, torch.Tensor) for one in weights.values()):
        raise ValueError(
            f"Expected a state dict in {os.fspath(path)!r}, got {type(weights).__name__} without tensors. "
            "Keep one with torch.save(model.state_dict(), path)."
        )
    known = set(model.state_dict())
    while prefix := next((one for one in _PREFIXES if _all_begin(weights, one)), None):
        if known & set(weights):
            break
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        said = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise ValueError(
            f"Expected the weights of this model in {os.fspath(path)!r}, got others: {said[:500]} Check the "
            "model and its arguments."
        ) from error


def _all_begin(weights: Mapping[str, Any], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in weights)


def _read(path: str | os.PathLike[str]) -> Any:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a file of weights, got none at {os.fspath(path)!r}.")
    if os.fspath(path).endswith(".safetensors"):
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as error:
            raise ImportError("Reading .safetensors needs safetensors: pip install safetensors") from error
        try:
            return load_file(os.fspath(path))
        except SafetensorError as error:
            raise ValueError(f"Expected a safetensors file, got {os.fspath(path)!r}: {error}.") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of bytes that are no such file torch's reader raises errors of any kind
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(
            f"Expected a state dict of tensors and plain values in {os.fspath(path)!r}, got a file that is "
            f"not read, as what else is in it could run code: {said} Keep the weights alone with "
            "torch.save(model.state_dict(), path)."
        ) from error
