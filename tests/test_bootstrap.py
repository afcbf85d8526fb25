"""Bootstrap from cells: against a bootstrap of rows, its coverage, and that it does not see the rows."""

import numpy as np
import pytest

from focalcal.bins import equal_width_edges
from focalcal.bootstrap import binned_error, bootstrap, ks_error, mean_gap
from focalcal.confidences import Confidences
from predictions import draw, softmax


def top(n: int, n_classes: int = 10, scale: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    z, y = draw(n, n_classes, seed)
    p = softmax(scale * z)
    return p.max(axis=1), p.argmax(axis=1) == y


def cells_of(confidence, hit, weight=None):
    return Confidences.of(confidence, hit, weight).cells()


def test_values_are_those_of_the_rows():
    confidence, hit = top(3000)
    cells = cells_of(confidence, hit)
    assert bootstrap(cells, mean_gap, draws=2).value == pytest.approx(np.mean(confidence - hit), abs=1e-14)
    order = np.argsort(confidence)
    ks = np.abs(np.cumsum((confidence - hit)[order])).max() / len(hit)
    assert bootstrap(cells, ks_error, draws=2).value == pytest.approx(ks, abs=2e-3)
    place = np.ceil(confidence * 15).astype(int)
    ece = np.abs(np.bincount(place, confidence - hit)).sum() / len(hit)
    found = bootstrap(cells, binned_error(cells, equal_width_edges(15)), draws=2).value
    assert found == pytest.approx(ece, abs=2e-3)


def test_spread_is_that_of_drawing_rows():
    confidence, hit = top(800, scale=1.5)
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 800, (4000, 800))
    direct = np.mean(confidence[rows] - hit[rows], axis=1)
    found = bootstrap(cells_of(confidence, hit), mean_gap, draws=4000)
    assert found.stderr == pytest.approx(direct.std(), rel=0.05)
    value = np.mean(confidence - hit)
    assert found.low == pytest.approx(2 * value - np.quantile(direct, 0.975), abs=0.1 * found.stderr)
    assert found.high == pytest.approx(2 * value - np.quantile(direct, 0.025), abs=0.1 * found.stderr)


def test_the_same_seed_gives_the_same_interval_and_weights_count_as_rows_of_equal_variance():
    confidence, hit = top(500)
    one = bootstrap(cells_of(confidence, hit), mean_gap, seed=3)
    assert one == bootstrap(cells_of(confidence, hit), mean_gap, seed=3)
    assert one.method == "bootstrap, 1000 draws, seed 3"
    doubled = bootstrap(cells_of(confidence, hit, np.full(500, 2.0)), mean_gap, seed=3)
    assert (doubled.low, doubled.high, doubled.n) == pytest.approx((one.low, one.high, 500))


def test_a_hundred_million_rows_cost_what_their_cells_cost():
    confidence, hit = top(2000)
    few = cells_of(confidence, hit)
    many = type(few)(
        few.end, *(5e4 * sums for sums in (few.count, few.weight, few.weight_squared, few.confidence))
    )
    found = bootstrap(many, mean_gap, draws=200)
    assert found.n == 100_000_000
    assert found.stderr == pytest.approx(bootstrap(few, mean_gap, draws=200).stderr / 5e4**0.5, rel=0.2)


@pytest.mark.parametrize("statistic", [mean_gap, ks_error])
def test_stated_intervals_cover_the_truth(statistic):
    # over-confident by a known factor: the truth from a hundred times as many rows
    truth = float(bootstrap(cells_of(*top(200_000, scale=1.6, seed=99)), statistic, draws=2).value)
    covered = 0
    for seed in range(200):
        found = bootstrap(
            cells_of(*top(500, scale=1.6, seed=seed)), statistic, draws=300, seed=seed, least=None
        )
        covered += found.low <= truth <= found.high
    assert 0.9 <= covered / 200 <= 0.99  # 95 %, at a standard error of 1.5 %


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="at least 2 draws, got 1"):
        bootstrap(cells_of(*top(50)), mean_gap, draws=1)
