"""Fitted calibrators as ONNX models, for runtimes without Python."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

import focalcal
from focalcal._settings import check_choice, optional_module
from focalcal._validate import PROBABILITY_FLOOR
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.onnx.families import log_probs
from focalcal.calibrators.onnx.graph import DTYPES, Graph
from focalcal.io.files import written_aside

#: What every runtime since 2022 reads; a model that is extended keeps its own.
_OPSET, _IR_VERSION = 17, 8

#: The first opset whose ReduceSum takes its axes as the graph passes them.
_LOWEST_OPSET = 13

#: What the scores are called by what they are; the calibrated probabilities are "probs".
_INPUTS = {"logits": "logits", "probs": "raw_probs"}

_OUTPUTS = ("log_probs", "probs")


def to_onnx(
    calibrator: Calibrator,
    path: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "float32",
    model: Any = None,
) -> Any:
    r"""Return a fitted calibrator as an ONNX model, alone or behind a classifier's own.

    Parameters
    ----------
    calibrator : Calibrator
        Fitted, of any family of focalcal.
    path : path, optional
        Where to write the model as well: aside, and then renamed.
    dtype : {"float32", "float64"}
        Of the inputs, the arithmetic and the outputs.
    model : onnx.ModelProto or path of one, optional
        A classifier whose one output of scores (N, K) the calibrator is appended to.

    Returns
    -------
    onnx.ModelProto
        From "logits" ("raw_probs" for a calibrator with input="probs") of shape (N, K), N free, to
        "log_probs" (nats) and "probs" of the same shape. Opset 17; that of `model`, if it is given. The
        metadata hold the version of focalcal, the family, its parameters and the classes, as focalcal_…;
        of tables of parameters, which the graph holds, their shapes alone.

    Raises
    ------
    ImportError
        Without the extra [onnx].
    TypeError
        For what is no calibrator of focalcal, one of a family of your own, or no ONNX model.
    ValueError
        For another dtype; a model with several outputs, of another width or dtype, below opset 13, or
        whose names are those of the calibrator's outputs.
    sklearn.exceptions.NotFittedError
        For a calibrator that is not fitted.

    Notes
    -----
    As `Calibrator.transform`, except that the values are not checked. The probabilities are its own to
    within 2e−6 in float32 and 1e−14 in float64 for γ up to 20, also of saturated, tied and masked
    (−inf) rows. Not so where a calibrator jumps (`HistogramBinning`) or nearly does
    (`IsotonicCalibration`) next to a score: what rounding moves over an edge is mapped as beyond it.

    Examples
    --------
    >>> cal = focalcal.TemperatureScaling().fit([[4.0, 0.0]] * 4, [0, 0, 0, 1])
    >>> [output.name for output in to_onnx(cal).graph.output]
    ['log_probs', 'probs']
    """
    if not isinstance(calibrator, Calibrator):
        raise TypeError(
            f"Expected a calibrator of focalcal, got {type(calibrator).__name__}. "
            "Fit one, or focalcal.load it."
        )
    check_is_fitted(calibrator)
    check_choice("dtype", dtype, DTYPES)
    onnx = optional_module("onnx", "to_onnx", "onnx")
    result = _alone(onnx, calibrator, dtype) if model is None else _behind(onnx, calibrator, dtype, model)
    onnx.checker.check_model(result)
    if path is not None:
        with written_aside(path) as aside, open(aside, "wb") as file:
            file.write(result.SerializeToString())
    return result


def _alone(
    onnx: Any, calibrator: Calibrator, dtype: str, opset: int = _OPSET, ir_version: int = _IR_VERSION
) -> Any:
    """Return the model of a calibrator alone."""
    g = Graph(onnx.helper, onnx.numpy_helper, dtype, len(calibrator.classes_))
    scores = _INPUTS[calibrator.input]
    logits = (
        scores if calibrator.input == "logits" else g("Log", g("Max", scores, g.number(PROBABILITY_FLOOR)))
    )
    calibrated = log_probs(calibrator, g, logits)
    g("Identity", calibrated, output="log_probs")
    g("Exp", calibrated, output="probs")
    shape = ("N", g.n_classes)
    values = [onnx.helper.make_tensor_value_info(name, g.kind, shape) for name in (scores, *_OUTPUTS)]
    graph = onnx.helper.make_graph(g.nodes, "focalcal", values[:1], values[1:], g.constants)
    made = onnx.helper.make_model(
        graph,
        producer_name="focalcal",
        producer_version=focalcal.__version__,
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=ir_version,
    )
    facts = calibrator.to_dict()
    told = {name: facts[name] for name in ("version", "calibrator")}
    for name, value in facts["parameters"].items():
        # tables are among the graph's constants
        told |= {f"{name}_shape": repr(list(np.shape(value)))} if np.ndim(value) else {name: repr(value)}
    told["classes"] = json.dumps(facts["classes"], ensure_ascii=False)
    # a classifier's model may tell of its own classes
    onnx.helper.set_model_props(made, {f"focalcal_{name}": value for name, value in told.items()})
    return made


def _behind(onnx: Any, calibrator: Calibrator, dtype: str, model: Any) -> Any:
    """Return a classifier's model with the calibrator's appended to its output."""
    first = _read(onnx, model) if isinstance(model, (str, os.PathLike)) else model
    if not isinstance(first, onnx.ModelProto):
        raise TypeError(
            f"Expected model as an onnx.ModelProto or the path of one, got {type(first).__name__}. Export it."
        )
    outputs = [(value.name, value.type.tensor_type) for value in first.graph.output]
    opset = next((known.version for known in first.opset_import if known.domain in ("", "ai.onnx")), 0)
    if len(outputs) != 1 or opset < _LOWEST_OPSET:
        raise ValueError(
            f"Expected a model of one output and opset {_LOWEST_OPSET} or later, got outputs "
            f"{', '.join(name for name, _ in outputs) or 'none'} and opset {opset}. Export the scores "
            "alone, or convert it with onnx.version_converter."
        )
    name, kind = outputs[0]
    wanted = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    widths = [axis.dim_value for axis in kind.shape.dim]
    if kind.elem_type != wanted or len(widths) != 2 or widths[1] not in (0, len(calibrator.classes_)):
        raise ValueError(
            f"Expected a model whose output is {dtype} of shape (N, {len(calibrator.classes_)}), got "
            f"{onnx.TensorProto.DataType.Name(kind.elem_type)} of shape {widths} (0 is free) in {name!r}. "
            "Pass dtype as the model has it, and the calibrator that was fitted to this model."
        )
    last = _alone(onnx, calibrator, dtype, opset, first.ir_version)
    joined = onnx.compose.merge_models(first, last, io_map=[(name, _INPUTS[calibrator.input])])
    del joined.opset_import[len(first.opset_import) :]  # which onnx lists once for each model
    return joined


def _read(onnx: Any, path: str | os.PathLike[str]) -> Any:
    try:
        return onnx.load(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"Expected an ONNX model in {path}, got no such file. Export it.") from error
    except Exception as error:  # protobuf's own, which onnx does not name
        raise ValueError(f"Expected an ONNX model in {path}, got another file: {error}.") from error
