"""Ctrl-C in the middle of a scan: at once, and nothing half-written."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from focalcal.io.duck import connect, read_ahead

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

#: A condition that takes DuckDB minutes.
SLOW = "(SELECT sum(sqrt(a.range * b.range)) FROM range(1000000) a, range(1000000) b) > z0"


def wait_for_scan(process):
    """Wait until threads other than the first have computed for a second: imports run in the first alone."""
    child = psutil.Process(process.pid)
    for _ in range(600):
        assert process.poll() is None
        if sum(t.user_time + t.system_time for t in child.threads() if t.id != process.pid) > 1:
            return
        time.sleep(0.1)
    process.kill()
    raise TimeoutError("the command does not scan")


@pytest.mark.parametrize("command", ["fit", "evaluate", "apply"])
def test_a_command_stops_in_the_middle_of_a_scan(tmp_path, command):
    table = pa.table({"z0": [1.0, 0.0] * 50, "z1": [0.0, 0.5] * 50, "y": [0, 1] * 50})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "out.json").write_text("precious")
    arguments = {
        "fit": ["fit", "a.parquet", "--label", "y", "-o", "out.json"],
        "evaluate": ["evaluate", "a.parquet", "--label", "y"],
        "apply": ["apply", "cal.json", "a.parquet", "-o", "out.parquet"],
    }[command]
    if command == "apply":
        fit = ["fit", "a.parquet", "--label", "y", "--logits", "z*", "-o", "cal.json"]
        subprocess.run(
            [sys.executable, "-m", "focalcal", *fit], cwd=tmp_path, check=True, capture_output=True
        )
    before = sorted(os.listdir(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-m", "focalcal", *arguments, "--logits", "z*", "--where", SLOW],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_scan(process)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - sent < 5
    assert err == ""
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "out.json").read_text() == "precious"


def test_the_reader_stops_with_its_caller():
    connection = connect(1)
    query = connection.sql("SELECT range FROM range(1000000000) WHERE sqrt(range) < 0")

    def batches():
        yield from query.to_arrow_reader(1000)

    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(read_ahead(batches(), connection.interrupt))
    assert time.monotonic() - started < 3
    assert not [thread for thread in threading.enumerate() if thread.name == "focalcal-read"]


def test_a_reader_that_is_left_alone_ends():
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    reading = read_ahead(items(), lambda: None)
    assert next(reading) == 0
    reading.close()
    assert len(taken) < 10
    assert list(read_ahead(iter(range(100)), lambda: None)) == list(range(100))
