"""How each family of calibrators is said in ONNX: its own map, with the block of it that others share."""

from __future__ import annotations

from functools import singledispatch

import numpy as np
from scipy.interpolate import CubicSpline

from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.confidence.ensemble import EnsembleTemperatureScaling
from focalcal.calibrators.confidence.mixed import MixedTemperatureScaling
from focalcal.calibrators.confidence.order_preserving import OrderPreservingCalibration
from focalcal.calibrators.confidence.spline import SplineCalibration
from focalcal.calibrators.matrix.dirichlet import DirichletCalibration
from focalcal.calibrators.matrix.focal_matrix import FocalMatrixScaling
from focalcal.calibrators.matrix.matrix import MatrixScaling
from focalcal.calibrators.matrix.structured_matrix import StructuredMatrixScaling
from focalcal.calibrators.matrix.structured_vector import StructuredVectorScaling
from focalcal.calibrators.matrix.vector import VectorScaling
from focalcal.calibrators.one_vs_rest.beta import BetaCalibration
from focalcal.calibrators.one_vs_rest.histogram import HistogramBinning
from focalcal.calibrators.one_vs_rest.isotonic import IsotonicCalibration
from focalcal.calibrators.one_vs_rest.platt import PlattScaling
from focalcal.calibrators.onnx import blocks
from focalcal.calibrators.onnx.graph import Graph, below_top, focal_temperature
from focalcal.calibrators.temperature.temperature import FocalTemperatureScaling, TemperatureScaling


# a family registers here
@singledispatch
def log_probs(calibrator: Calibrator, g: Graph, logits: str) -> str:
    """Add a calibrator's log-probabilities (N, K) of logits (N, K)."""
    known = ", ".join(kind.__name__ for kind in log_probs.registry if kind is not object)
    raise TypeError(
        f"Expected a calibrator that ONNX can say ({known}), got {type(calibrator).__name__}. Use its own "
        "transform."
    )


@log_probs.register
def _(calibrator: TemperatureScaling, g: Graph, logits: str) -> str:
    return focal_temperature(g, logits, calibrator.temperature_, 0.0)


@log_probs.register
def _(calibrator: FocalTemperatureScaling, g: Graph, logits: str) -> str:
    return focal_temperature(g, logits, calibrator.temperature_, calibrator.gamma_)


@log_probs.register
def _(calibrator: FocalMatrixScaling, g: Graph, logits: str) -> str:
    log_p = _after_temperature(calibrator, g, logits)
    p = g("Exp", log_p)
    entropy = g("Neg", blocks.row_sums(g, g("Mul", p, g("Max", log_p, g.masked()))))
    largest = g("TopK", p, g.constant(np.array([2], np.int64)), axis=1)
    slopes = calibrator.slopes_[:, None]
    log_temperature = g(
        "Add",
        blocks.affine(g, largest, slopes[1:3], slopes[0]),
        g("Mul", entropy, g.number(slopes[3, 0])),
    )
    tempered = g("Mul", log_p, g("Exp", g("Neg", log_temperature)))
    focal = focal_temperature(g, tempered, 1.0, calibrator.gamma_)
    share = calibrator.prior_share_
    mixed = blocks.mixture(g, [(focal, 1 - share), (blocks.log_uniform(g, logits), share)])
    return blocks.normalised(g, mixed, logits)


@log_probs.register
def _(calibrator: MatrixScaling, g: Graph, logits: str) -> str:
    return _after_temperature(calibrator, g, logits)


def _after_temperature(calibrator: MatrixScaling | FocalMatrixScaling, g: Graph, logits: str) -> str:
    if isinstance(calibrator, FocalMatrixScaling) and calibrator.uniform_share_:
        x = _smoothed(calibrator.temperature_, calibrator.uniform_share_, g, logits)
    else:
        x = blocks.scaled(g, blocks.filled(g, logits, logits), calibrator.temperature_)
    return blocks.normalised(g, blocks.affine(g, x, calibrator.matrix_, calibrator.bias_), logits)


@log_probs.register
def _(calibrator: VectorScaling, g: Graph, logits: str) -> str:
    x = blocks.filled(g, blocks.scaled(g, logits), logits)
    return blocks.normalised(g, blocks.affine(g, x, calibrator.slope_, calibrator.bias_), logits)


@log_probs.register
def _(calibrator: DirichletCalibration, g: Graph, logits: str) -> str:
    x = blocks.filled(g, blocks.scaled(g, logits), logits)
    return blocks.normalised(g, blocks.affine(g, x, calibrator.matrix_, calibrator.bias_), logits)


@log_probs.register
def _(calibrator: StructuredVectorScaling, g: Graph, logits: str) -> str:
    x = _smoothed(calibrator.temperature_, calibrator.share_, g, logits)
    return blocks.normalised(g, blocks.affine(g, x, calibrator.slope_, calibrator.bias_), logits)


@log_probs.register
def _(calibrator: StructuredMatrixScaling, g: Graph, logits: str) -> str:
    x = _smoothed(calibrator.temperature_, calibrator.share_, g, logits)
    return blocks.normalised(g, blocks.affine(g, x, calibrator.matrix_, calibrator.bias_), logits)


@log_probs.register
def _(calibrator: MixedTemperatureScaling, g: Graph, logits: str) -> str:
    mixed = _with_uniform(calibrator.temperature_, calibrator.share_, g, logits)
    return blocks.normalised(g, mixed, logits)


def _smoothed(temperature: float, share: float, g: Graph, logits: str) -> str:
    return blocks.filled(g, _with_uniform(temperature, share, g, logits), logits)


def _with_uniform(temperature: float, share: float, g: Graph, logits: str) -> str:
    sharp, flat = blocks.scaled(g, logits, temperature), blocks.log_uniform(g, logits)
    return blocks.mixture(g, [(sharp, 1 - share), (flat, share)])


@log_probs.register
def _(calibrator: EnsembleTemperatureScaling, g: Graph, logits: str) -> str:
    parts = [
        blocks.scaled(g, logits, calibrator.temperature_),
        blocks.scaled(g, logits),
        blocks.log_uniform(g, logits),
    ]
    weighted = list(zip(parts, calibrator.weights_.tolist(), strict=True))
    return blocks.normalised(g, blocks.mixture(g, weighted), logits)


@log_probs.register
def _(calibrator: PlattScaling, g: Graph, logits: str) -> str:
    odds = blocks.affine(g, blocks.log_odds(g, logits), calibrator.slope_, calibrator.intercept_)
    return blocks.normalised(g, blocks.joined(g, odds), logits)


@log_probs.register
def _(calibrator: BetaCalibration, g: Graph, logits: str) -> str:
    odds = blocks.log_odds(g, logits)
    log_p = g("Mul", blocks.softplus(g, g("Neg", odds)), g.numbers(-calibrator.a_))
    log_rest = blocks.affine(g, blocks.softplus(g, odds), calibrator.b_, calibrator.c_)
    return blocks.normalised(g, blocks.joined(g, g("Add", log_p, log_rest)), logits)


@log_probs.register
def _(calibrator: HistogramBinning, g: Graph, logits: str) -> str:
    p = calibrator.probabilities_
    logit = np.log(p) - np.log1p(-p)
    odds = blocks.piecewise(
        g, blocks.log_odds(g, logits), calibrator.edges_, np.zeros_like(p), [logit], closed="right"
    )
    return blocks.normalised(g, blocks.joined(g, odds), logits)


@log_probs.register
def _(calibrator: IsotonicCalibration, g: Graph, logits: str) -> str:
    cuts = calibrator.ends_[:-1].astype(np.int64)
    x, p = (np.split(one, cuts) for one in (calibrator.thresholds_, calibrator.probabilities_))
    most = max(map(len, x))
    # from threshold to threshold, and constant before the first and after the last
    borders = np.stack([np.append(one, np.full(most - len(one), np.inf)) for one in x])
    anchors, values, slopes = (np.zeros((len(x), most + 1)) for _ in range(3))
    for k, (places, heights) in enumerate(zip(x, p, strict=True)):
        end = len(places) + 1
        anchors[k, :end] = np.append(places[0], places)
        values[k, :end] = np.append(heights[0], heights)
        slopes[k, 1 : end - 1] = np.diff(heights) / np.diff(places)
    odds = blocks.log_odds(g, logits)
    here = blocks.piecewise(g, odds, borders, anchors, [slopes, values])
    rest = blocks.piecewise(g, odds, borders, anchors, [-slopes, 1 - values])  # whose digits 1 − p would lose
    return blocks.normalised(g, blocks.joined(g, g("Sub", g("Log", here), g("Log", rest))), logits)


@log_probs.register
def _(calibrator: OrderPreservingCalibration, g: Graph, logits: str) -> str:
    knots, slopes = calibrator.knots_[None], calibrator.slopes_[None]
    before = np.append(0.0, np.cumsum(np.diff(knots) * slopes[:, :-1]))[None]
    gaps = g("Neg", below_top(g, blocks.filled(g, logits, logits))[0])
    return blocks.normalised(g, blocks.piecewise(g, gaps, knots[:, 1:], knots, [-slopes, -before]), logits)


@log_probs.register
def _(calibrator: SplineCalibration, g: Graph, logits: str) -> str:
    places, spline = (
        calibrator.places_,
        CubicSpline(calibrator.places_, calibrator.values_, bc_type="natural"),
    )
    left, right = (np.array([[0.0], [0.0], [spline(at, 1)], [spline(at)]]) for at in places[[0, -1]])
    anchors = np.append(places[0], places)[None]
    coefficients = list(np.hstack([left, spline.c, right])[:, None])  # lines beyond the ends
    scores = g("Div", below_top(g, logits)[0], g.number(calibrator.temperature_))
    if g.n_classes == 2:
        odds = blocks.second_log_odds(g, scores)
        return blocks.normalised(
            g, blocks.joined(g, blocks.piecewise(g, odds, places[None], anchors, coefficients)), logits
        )
    is_top, odds = blocks.top_log_odds(g, scores)
    answers = blocks.piecewise(g, odds, places[None], anchors, coefficients)
    # the other classes keep their shares of 1 − p, log(1−p) being log p − s
    of_top = g("Neg", blocks.softplus(g, g("Neg", answers)))
    log_top = g("Neg", blocks.softplus(g, g("Neg", odds)))
    shift = g("Sub", g("Sub", odds, log_top), blocks.softplus(g, answers))
    return blocks.normalised(g, g("Where", is_top, of_top, g("Add", blocks.scaled(g, scores), shift)), logits)
