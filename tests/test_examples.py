"""Every script in examples/ runs, and ends with numbers and their intervals."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


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
