"""The scores of each row of a block, in NumPy: what the compiled loops sum without keeping them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from focalcal._validate import PROBABILITY_FLOOR, Input, check_block, to_logits
from focalcal.rows import Block


def score_block(block: Block, kind: Input) -> Scored:
    """Check the values of a block and score its rows."""
    check_block(block.scores, kind, "y_prob", block.first)
    if block.codes.ndim == 2:
        return score_targets(block.scores, block.codes, kind)
    return (score_probs if kind == "probs" else score_logits)(block.scores, block.codes)


@dataclass(frozen=True)
class Scored:
    """The scores of each row of a block."""

    probs: NDArray[Any]  # (b, K), may be written to
    confidence: NDArray[Any]  # (b,)
    hit: NDArray[Any]  # (b,) boolean; the label's chance to be the top class where labels are distributions
    nll: NDArray[Any]  # (b,), nats
    brier: NDArray[Any]  # (b,)
    floored: NDArray[np.bool_]  # (b,)


def score_logits(block: NDArray[Any], y: NDArray[Any]) -> Scored:
    """Score rows of logits in the log domain.

    The largest logit stays out of the sum S = Σ exp(z_j − z_max), so that −log p = log1p(S) of a confident
    hit, and 1 − p = S/(1 + S), keep all their digits.
    """
    z = to_logits(block, "logits")
    at = np.arange(len(z))
    top = z.argmax(axis=1)
    p = z - z[at, top][:, None]
    relative = p[at, y]
    np.exp(p, out=p)
    p[at, top] = 0
    others = p.sum(axis=1)
    total = 1 + others
    p /= total[:, None]
    confidence = 1 / total
    p[at, top] = confidence
    hit = top == y
    missing = np.where(hit, others / total, 1 - p[at, y])
    nll = np.log1p(others) - relative
    return Scored(p, confidence, hit, nll, _brier(p, y, missing), np.zeros(len(z), np.bool_))


def score_probs(block: NDArray[Any], y: NDArray[Any]) -> Scored:
    """Score rows of probabilities as they are, without normalising them."""
    if block.ndim == 1:
        wide = np.clip(block.astype(np.float64), 0, 1)
        p = np.stack([1 - wide, wide], axis=1)  # exact in float64 for every float32
    else:
        p = np.minimum(block, 1, dtype=np.float64 if block.dtype == np.float64 else np.float32)
    at = np.arange(len(p))
    top = p.argmax(axis=1)
    chance = p[at, y]
    confidence = p[at, top].astype(block.dtype)
    floored = chance < PROBABILITY_FLOOR
    nll = -np.log(np.maximum(chance, chance.dtype.type(PROBABILITY_FLOOR)))
    return Scored(p, confidence, top == y, nll, _brier(p, y, 1 - chance), floored)


def _brier(p: NDArray[Any], y: NDArray[np.intp], missing: NDArray[Any]) -> NDArray[Any]:
    at = np.arange(len(p))
    kept = p[at, y]
    p[at, y] = 0  # so that no 1 − p is squared after rounding
    others = np.einsum("ij,ij->i", p, p)
    p[at, y] = kept
    return np.asarray(others + missing**2)


def score_targets(block: NDArray[Any], targets: NDArray[np.float64], kind: Input) -> Scored:
    """Score rows against distributions of labels: each score is its mean over labels drawn from them."""
    scored = (score_probs if kind == "probs" else score_logits)(block, targets.argmax(axis=1))
    p = scored.probs.astype(np.float64)
    at = np.arange(len(p))
    hit = targets[at, p.argmax(axis=1)]
    brier = ((p**2).sum(axis=1) - 2 * (p * targets).sum(axis=1) + 1).clip(0)
    given = targets > 0
    if kind == "probs":
        floored = np.asarray(((p < PROBABILITY_FLOOR) & given).any(axis=1))
        nll = -xlogy(targets, np.maximum(p, PROBABILITY_FLOOR)).sum(axis=1)
    else:
        z = to_logits(block, "logits").astype(np.float64)
        z = z - z.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(z).sum(axis=1))
        floored = np.zeros(len(p), np.bool_)
        nll = log_sum - np.where(given, targets * np.where(given, z, 0), 0).sum(axis=1)
    return Scored(scored.probs, scored.confidence, hit, nll, brier, floored)
