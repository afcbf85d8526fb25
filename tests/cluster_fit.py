"""Fit and evaluate on a Dask cluster of two processes, of which one is killed: run by test_cluster.py."""

import json
import logging
import os
import signal
import sys
from concurrent.futures import Executor

from distributed import Client, LocalCluster

import focalcal
import focalcal.io.scan
from focalcal.cli import main


class Killer(Executor):
    """The cluster's executor; when a part of the third pass is done, a worker dies that has others to do."""

    def __init__(self, client):
        self.executor, self.pids = client.get_executor(), client.run(os.getpid)
        self.passes, self.killed = 0, None

    def submit(self, function, item):
        future = self.executor.submit(function, item)
        if isinstance(item, tuple) and item[1] == 0:
            self.passes += 1
            if self.passes == 3:
                future.add_done_callback(self.kill)
        return future

    def kill(self, _):
        self.killed = next(iter(self.pids.values()))
        os.kill(self.killed, signal.SIGKILL)


def run(folder, pattern):
    focalcal.io.scan.PART_ELEMENTS = (1, 16_000)  # so that there are several parts a file
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.ERROR
        ) as cluster,
        Client(cluster) as client,
    ):
        address = cluster.scheduler_address
        columns = ["--logits", "z*", "--label", "y", "--scheduler", address]
        assert main(["fit", pattern, *columns, "-o", f"{folder}/cal.json"]) == 0
        options = ["--calibrator", f"{folder}/cal.json", "--by", "part", "--json"]
        assert main(["evaluate", pattern, *columns, *options]) == 0
        killer = Killer(client)
        scores = focalcal.open_scores(pattern, logits="z*", label="y")
        fitted = focalcal.FocalTemperatureScaling().fit(scores, executor=killer)
        assert killer.killed
        assert set(client.run(os.getpid).values()) != set(killer.pids.values())
        sys.stdout.write(json.dumps(["killed", fitted.temperature_, fitted.gamma_]) + "\n")


if __name__ == "__main__":
    run(*sys.argv[1:])
