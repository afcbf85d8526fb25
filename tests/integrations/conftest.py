"""The tests of the adapters need torch, and data that a model might give."""

import numpy as np
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


@pytest.fixture(scope="session")
def rows():
    """Over-confident logits (500, 4) in float64 and labels, every ninth of them -100."""
    rng = np.random.default_rng(3)
    z = rng.normal(size=(500, 4)) * 2
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    y = (p.cumsum(axis=1) > rng.random((500, 1))).argmax(axis=1)
    y[::9] = -100
    return 2 * z, y


@pytest.fixture(scope="session")
def images():
    """Logits (9, 3, 4, 5) of images, every other of them all right, and labels; one image is all -100."""
    rng = np.random.default_rng(4)
    z = rng.normal(size=(9, 3, 4, 5)) + 2 * rng.normal(size=(9, 3, 1, 1))
    y = rng.integers(3, size=(9, 4, 5))
    y[::2] = z.argmax(axis=1)[::2]
    y[:, 3, 1], y[4] = -100, -100
    return z, y
