"""Fit on a Spark cluster: an executor of a few lines is all that focalcal asks for.

    pip install 'focalcal[data]' pyspark
    python examples/spark_fit.py [table.parquet --logits 'z*' --label y]

The table is read and summed in parts where the workers are, so they must see the same path (or s3://…).
"""

import argparse
import os
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

import focalcal


class SparkExecutor(ThreadPoolExecutor):
    """Run each call as a Spark job of one task; several jobs are under way at a time."""

    def __init__(self, session: SparkSession, at_a_time: int) -> None:
        super().__init__(at_a_time)
        self._context = session.sparkContext

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call."""

        def run() -> Any:
            (result,) = self._context.parallelize([0], 1).map(lambda _: function(*args, **kwargs)).collect()
            return result

        return super().submit(run)


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
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # has to have focalcal, on every machine
        session = SparkSession.builder.appName("focalcal").getOrCreate()
        with SparkExecutor(session, session.sparkContext.defaultParallelism) as executor:
            distributed = focalcal.FocalTemperatureScaling().fit(scores, executor=executor)
            print(focalcal.evaluate(scores, executor=executor))
        session.stop()
        local = focalcal.FocalTemperatureScaling().fit(scores)
    print(f"on Spark T = {distributed.temperature_:.12f}, gamma = {distributed.gamma_:.10f}")
    print(f"locally  T = {local.temperature_:.12f}, gamma = {local.gamma_:.10f}")


if __name__ == "__main__":
    main()
