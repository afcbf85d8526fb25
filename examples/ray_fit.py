"""Fit on a Ray cluster: an executor of a few lines is all that focalcal asks for.

    pip install 'focalcal[data]' ray
    python examples/ray_fit.py [table.parquet --logits 'z*' --label y]

The table is read and summed in parts where the workers are, so they must see the same path (or s3://…).
"""

import argparse
import tempfile
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

import focalcal


class RayExecutor(Executor):
    """Run each call as a Ray task."""

    def __init__(self) -> None:
        self._call = ray.remote(lambda function, item: function(item))

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call."""
        return self._call.remote(function, *args, **kwargs).future()


def make_table(path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 60_000)
    z = rng.normal(size=(len(y), 5)) * 3
    z[np.arange(len(y)), y] += 2
    pq.write_table(pa.table({f"z{j}": z[:, j] for j in range(5)} | {"y": y}), path, row_group_size=10_000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", help="by default one is made up")
    parser.add_argument("--logits", default="z*")
    parser.add_argument("--label", default="y")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        if arguments.table is None:
            make_table(Path(folder, "made_up.parquet"))
        scores = focalcal.open_scores(
            arguments.table or f"{folder}/made_up.parquet", logits=arguments.logits, label=arguments.label
        )
        ray.init()
        distributed = focalcal.FocalTemperatureScaling().fit(scores, executor=RayExecutor())
        print(focalcal.evaluate(scores, executor=RayExecutor()))
        ray.shutdown()
        local = focalcal.FocalTemperatureScaling().fit(scores)
    print(f"on Ray   T = {distributed.temperature_:.12f}, gamma = {distributed.gamma_:.10f}")
    print(f"locally  T = {local.temperature_:.12f}, gamma = {local.gamma_:.10f}")


if __name__ == "__main__":
    main()
