"""What every test runs under: two CPU devices, x64 off as for users, warnings as errors (pyproject.toml), fixed seeds,
and a check that no call leaves a `jax.config` value changed.

Rank promotion raises for laws and roots (`strict_ranks`), not everywhere: a fit's features [p, n] times weights [n].
"""

import atexit
import os
import shutil
import tempfile

# Read by XLA once, so before jax is imported: sharded code must meet more than one device.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
# Much of the tests' time is compilation, often of the same code in another module or process: they share it, in a
# folder of the first process, whose environment the workers of pytest-xdist get.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": tempfile.mkdtemp(prefix="jaxscale-tests-"),
                   "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
                   "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# The ranges of DESIGN.md, in which float32 must be right too; D = B S, M = D / N, x the input of PowerLaw (compute).
RANGES = {"N": (1e5, 1e13), "S": (1, 1e8), "B": (1e2, 1e9), "D": (1e2, 1e17), "unique_tokens": (1e2, 1e17),
          "M": (1e-3, 1e5), "x": (1e15, 1e30), "loss": (0.5, 15), "n_ctx": (1, 1e8), "N_active": (1e5, 1e13),
          "N_total": (1e5, 1e13), "experts": (1, 1e4), "S1": (1e-2, 1e4), "S2": (1e-3, 1)}


@pytest.fixture(autouse=True)
def unchanged_config():
    """No call changes a `jax.config` value."""
    before = dict(jax.config.values)
    yield
    assert dict(jax.config.values) == before


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """What a module compiled is freed: Linux lets a process map 65,530 pieces of memory, and each function takes some.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def strict_ranks():
    """A vector against a matrix is an error: laws are elementwise, and broadcast numbers alone."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    """The test runs with 64-bit JAX, inside the context manager that fits use."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=[np.float32, np.float64], ids=["x64 off", "x64 on"])
def dtype(request):
    """The test runs twice: as for users (float32), and with x64 on. The value is the dtype that JAX then has."""
    with jax.enable_x64(request.param is np.float64):
        yield request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20240501)


@pytest.fixture
def sample(rng):
    """`sample(inputs, count)`: random inputs, log-uniform over the whole ranges of DESIGN.md, exact in float32."""

    def draw(inputs, count):
        low, high = np.log([RANGES[name] for name in inputs]).T[..., None]
        return np.exp(rng.uniform(low, high, (len(inputs), count))).astype(np.float32).astype(np.float64)

    return draw
