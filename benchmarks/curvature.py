"""What curvature costs, beside PyHessian, hessian-eigenthings and curvlinops.

    python -P benchmarks/curvature.py [--checkpoints FOLDER] [--data ../shared/data] [--write FILE]

Each library gets growing budgets (products with the Hessian; of ours, sketches) until the error over seeds is below
the goal. The unit of cost is one gradient over all rows, timed before and after every run: "gradients" is the
run's CPU time over it; errors are root mean squares over seeds. Libraries that are not installed are left out, and named. With a checkpoint of ResNet-20
(`geometry_nets.py --study resnet20`) that is measured too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import wasserstein_distance

sys.path.insert(0, str(Path(__file__).parent))
from curvature_peers import LIBRARIES, Method, Problem, densities, eigenvalues, traces
from geometry_nets import Net, load, trained
from peers import describe_machine

from focalcal.curvature import hutchinson_trace, structured_trace, top_eigenvalues
from focalcal.experiments import mlp

BUDGETS = (2, 3, 5, 8, 12, 16, 20, 25, 30, 35, 40, 50, 70, 100, 150, 200, 300, 500)


class Counted(list):
    """Batches that count how often they were gone through."""

    passes = 0

    def __iter__(self) -> Iterator:
        self.passes += 1
        return super().__iter__()


@dataclass(frozen=True)
class Cost:
    """A budget that was enough (or the last that was tried), and what it took: medians over seeds."""

    budget: int
    error: float  # root mean square of the relative error over seeds
    enough: bool
    passes: float
    seconds: float
    gradients: float


def seconds(run: Callable[[], object]) -> float:
    """Return the CPU's time in one thread, which other programs do not lengthen much."""
    start = time.process_time()
    run()
    return time.process_time() - start


def one_run(problem: Problem, method: Method, budget: int, seed: int) -> tuple[object, float, float, int]:
    """Return what was found, its seconds, those of a gradient around it, and the passes over the data."""
    gradient = [seconds(problem.gradient) for _ in range(2)]
    before, start = problem.batches.passes, time.process_time()
    found = method(budget, seed)
    took, passes = time.process_time() - start, problem.batches.passes - before
    gradient += [seconds(problem.gradient) for _ in range(2)]
    return found, took, statistics.median(gradient), passes


def reach(
    problem: Problem, method: Method, error: Callable[[object], float], goal: float, seeds: int, limit: float
) -> Cost:
    """Return the cost of the smallest budget whose error over seeds is below the goal."""
    spent = 0.0
    for budget in BUDGETS:
        runs = [one_run(problem, method, budget, seed) for seed in range(seeds)]
        rms = float(np.sqrt(np.mean([error(run[0]) ** 2 for run in runs])))
        spent += sum(run[1] for run in runs)
        if rms <= goal or spent > limit:
            break
    took, passes = (statistics.median(run[i] for run in runs) for i in (1, 3))
    return Cost(budget, rms, rms <= goal, passes, took, statistics.median(run[1] / run[2] for run in runs))


def digits() -> Problem:
    """Return a perceptron of 2,410 parameters, trained on 1,000 of scikit-learn's digits."""
    x, y = load("digits-large", Path()).train
    torch.manual_seed(0)
    model, order = mlp(64, 10, hidden=(32,)), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(30):
        for rows in torch.randperm(len(y), generator=order).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return Problem(model.eval(), torch.nn.CrossEntropyLoss(), Counted([(x, y)]))


def resnet(checkpoints: Path, data: Path, rows: int) -> Problem:
    """Return ResNet-20 in eval mode on training images."""
    model = trained(Net("resnet20", 0.0, 0), checkpoints, data)
    x, y = (part[:rows] for part in load("cifar", data).train)
    return Problem(model, torch.nn.CrossEntropyLoss(), Counted([(x, y)]))


def spectrum(problem: Problem) -> np.ndarray:
    """Return all eigenvalues of a small Hessian, in float64, largest first."""
    wide = Problem(problem.model.double(), problem.loss, [(x.double(), y) for x, y in problem.batches])
    surface = wide.surface()
    unit = torch.eye(surface.size, dtype=torch.float64)
    matrix = torch.cat([surface.hessian_product(part.T.contiguous()) for part in unit.split(200)], 1)
    problem.model.float()
    return np.linalg.eigvalsh(((matrix + matrix.T) / 2).numpy())[::-1]


def relative(truth: object) -> Callable[[object], float]:
    """Return the largest relative error of numbers; what is missing counts as 1."""
    return lambda found: float(np.nan_to_num(np.abs(np.asarray(found) / truth - 1), nan=1.0).max())


def distance(values: np.ndarray) -> Callable[[object], float]:
    """Return Wasserstein's distance of a density from all eigenvalues, over their mean size."""

    def of(found: object) -> float:
        nodes, weights = found
        return wasserstein_distance(values, nodes, None, np.maximum(weights, 0)) / np.abs(values).mean()

    return of


def line(name: str, cost: Cost) -> str:
    reached = "" if cost.enough else f"not reached: {cost.error:.2g}"
    found = f"{cost.budget} | {cost.passes:.0f} | {cost.seconds:.3g} | {cost.gradients:.1f} | {reached or f'{cost.error:.2g}'}"
    return f"| {name} | {found} |"


def table(
    title: str, problem: Problem, methods: dict[str, Method], error, goal: float, seeds: int, limit: float
):
    """Print a table; a library that fails is named with its error."""
    lines = [
        f"### {title}",
        "",
        "| method | budget | passes over the data | CPU seconds | gradients | error |",
        f"|{' --- |' * 6}",
    ]
    for name, method in methods.items():
        try:
            lines.append(line(name, reach(problem, method, error, goal, seeds, limit)))
        except (AttributeError, NotImplementedError, RuntimeError) as failure:
            lines.append(f"| {name} | fails: {str(failure).splitlines()[0][:110]} | | | | |")
        print(lines[-1], file=sys.stderr, flush=True)
    return [*lines, ""]


def every_class(problem: Problem) -> dict[str, Method]:
    """Return the exact trace, one pull a class and row."""
    surface = problem.surface()
    return {"focalcal, every class": lambda m, s: structured_trace(surface, by="classes").value}


def of_digits() -> list[str]:
    problem = digits()
    values = spectrum(problem)
    lines = [
        "## A perceptron on digits",
        "",
        f"{len(values):,} parameters, 1,000 rows in one batch; truth from the whole Hessian in float64: trace "
        f"{values.sum():.4f}, largest eigenvalues {', '.join(f'{v:.4f}' for v in values[:5])}, smallest {values[-1]:.4f}.",
        "",
    ]
    trace = relative(values.sum())
    lines += table("Trace to 5 %", problem, traces(problem), trace, 0.05, 10, 30)
    lines += table("Trace to 10⁻⁶", problem, every_class(problem), trace, 1e-6, 3, 30)
    lines += table(
        "Largest eigenvalue to 1 %",
        problem,
        eigenvalues(problem, 1, 1e-2),
        relative(values[:1]),
        0.01,
        10,
        30,
    )
    lines += table(
        "Five largest to 10⁻⁶", problem, eigenvalues(problem, 5, 1e-6), relative(values[:5]), 1e-6, 5, 30
    )
    return lines + table(
        "Spectral density at 50 products: W₁ over the mean |eigenvalue|",
        problem,
        {name: lambda m, s, method=method: method(50, s) for name, method in densities(problem).items()},
        distance(values),
        float("inf"),
        10,
        60,
    )


def of_resnet(checkpoints: Path, data: Path, rows: int) -> list[str]:
    """Return the cost of the trace, of each library's product, and of eigenvalues."""
    problem = resnet(checkpoints, data, rows)
    truth = structured_trace(problem.surface(), by="classes").value
    lines = [
        "## ResNet-20 on CIFAR-10",
        "",
        f"269,722 parameters, {rows:,} training images in one batch, eval mode; trace {truth:.2f} (every class).",
        "",
    ]
    methods = traces(problem)
    ours = {name: method for name, method in methods.items() if "sketches" in name}
    lines += table("Trace to 5 %", problem, ours, relative(truth), 0.05, 3, 600)
    lines += table("Trace to 10⁻⁶", problem, every_class(problem), relative(truth), 1e-6, 1, 600)
    one = {name: lambda m, s, run=run: run(2, s) for name, run in methods.items() if "Hutchinson" in name}
    lines += table("Two Hutchinson probes, two products", problem, one, relative(truth), float("inf"), 2, 600)
    lines += [probes_needed(problem), ""]
    best = top_eigenvalues(problem.surface(), 5, tolerance=1e-8, products=40, seed=99)
    said = f"Truth by our own estimate to {np.max(best.errors / best.values):.0e}, from another start."
    lines += [said, ""]
    for words, k, goal in (("Largest eigenvalue to 1 %", 1, 1e-2), ("Five largest to 10⁻⁶", 5, 1e-6)):
        run = eigenvalues(problem, k, goal)
        lines += table(words, problem, run, relative(best.values[:k]), goal, 1, 90)
        found, took, unit, _ = one_run(problem, partial(_largest, problem.surface(), k, goal), 100, 0)
        error = relative(best.values[:k])(found.values)
        lines += [
            f"focalcal stops by itself after {found.products} products, {took:.3g} CPU seconds, "
            f"{took / unit:.1f} gradients, off by {error:.1g}.",
            "",
        ]
    return lines


def probes_needed(problem: Problem) -> str:
    """Return how many of Hutchinson's probes 5 % takes, by the spread of 40: they are the same for all."""
    found = hutchinson_trace(problem.surface(), probes=40)
    spread = found.stderr * 40**0.5 / found.value
    return (
        f"One probe's standard deviation is {spread:.0%} of the trace (40 probes): 5 % takes "
        f"{(spread / 0.05) ** 2:.0f} probes, of any library."
    )


def _largest(surface, k: int, goal: float, products: int, seed: int):
    return top_eigenvalues(surface, k, tolerance=goal, products=products, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--rows", type=int, default=60, help="images for ResNet-20")
    parser.add_argument("--only", choices=("digits", "resnet"), help="default: both")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# What curvature costs",
        "",
        f"{describe_machine(('focalcal', 'torch', *LIBRARIES))}. One thread.",
        "",
    ]
    lines += [" ".join(__doc__.split("\n\n")[2].split()), ""]
    if options.only != "resnet":
        lines += of_digits()
    if options.checkpoints and options.only != "digits":
        lines += of_resnet(options.checkpoints, options.data, options.rows)
    text = "\n".join(lines)
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
