"""Every script in examples/ runs, and ends with numbers and their intervals."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

#: Those that need what the tests do not install, and what that is.
CLUSTERS = {"ray_fit": "ray", "spark_fit": "pyspark"}

SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.stem not in CLUSTERS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_example_runs(script, tmp_path):
    command = [sys.executable, "-W", "error", str(script), "--figure", str(tmp_path / "figure.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    errors = [float(v) for v in re.findall(r"^ECE +([\d.]+)", done.stdout, flags=re.MULTILINE)]
    assert len(errors) == 2
    assert errors[1] < errors[0]
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_there_are_examples():
    assert SCRIPTS


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CLUSTERS))
def test_a_cluster_gives_the_digits_of_a_local_fit(name):
    pytest.importorskip(CLUSTERS[name], reason=f"pip install {CLUSTERS[name]} to run this example")
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (a, b), (c, d) = re.findall(r"T = ([\d.]+), gamma = (-?[\d.]+)", done.stdout)
    assert float(a) == pytest.approx(float(c), rel=1e-11)
    assert float(b) == pytest.approx(float(d), abs=1e-9)
