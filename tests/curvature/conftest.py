"""The tests of focalcal.curvature need torch."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items):
    """torch itself warns when forward mode is used for the first time."""
    ignored = "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(ignored))
