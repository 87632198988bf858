"""Oracle: the notebooks themselves, run in a fresh kernel without an error.

    python tests/test_notebooks.py notebooks/*.ipynb

runs notebooks and stores their outputs in place, as they are committed; from the project's root.
"""

import asyncio
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import jaxscale

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LONG = [path for path in NOTEBOOKS if path.stem[:2] in ("04", "05")]  # a minute each: to compile laws, and to train
# The kernel sees this jaxscale, wherever it runs, and the devices that users have (conftest.py asks for two).
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(jaxscale.__file__).parents[1]), "XLA_FLAGS": ""}


class Client(NotebookClient):
    """Runs a notebook with this Python, whatever kernels the machine knows."""

    def create_kernel_manager(self):
        kernel = super().create_kernel_manager()
        kernel.kernel_spec.argv[0] = sys.executable
        return kernel


def executed(paths):
    """For each notebook, what a fresh run in its own folder gives: the notebook with its outputs, or the error."""
    two = asyncio.Semaphore(2)  # side by side

    async def one(path):
        client = Client(nbformat.read(path, as_version=4), timeout=300, record_timing=False, coalesce_streams=True,
                        resources={"metadata": {"path": str(Path(path).parent)}})
        async with two:
            return await client.async_execute(env=ENVIRONMENT)

    async def all_of_them():
        return await asyncio.gather(*map(one, paths), return_exceptions=True)

    return dict(zip(paths, asyncio.run(all_of_them()), strict=True))


@pytest.fixture(scope="module")
def runs():
    return executed([path for path in NOTEBOOKS if path not in LONG])


def check(fresh, path):
    """Without an error, and with as many outputs as are committed."""
    if isinstance(fresh, Exception):
        raise fresh
    for now, then in zip(fresh.cells, nbformat.read(path, as_version=4).cells, strict=True):
        if now.cell_type == "code":
            assert then.execution_count == now.execution_count, "run it with `python tests/test_notebooks.py`"
            assert bool(now.outputs) == bool(then.outputs)


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path not in LONG], ids=lambda path: path.stem)
def test_a_notebook_runs(path, runs):
    check(runs[path], path)


@pytest.mark.slow
@pytest.mark.parametrize("path", LONG, ids=lambda path: path.stem)
def test_a_long_notebook_runs(path):
    check(executed([path])[path], path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_says_nothing_of_its_machine(path):
    text = path.read_text()
    assert len(text) < 300_000
    assert "/tmp/" not in text and str(Path.home()) + "/" not in text


if __name__ == "__main__":
    for name, outcome in executed(sys.argv[1:]).items():
        if isinstance(outcome, Exception):
            raise outcome
        nbformat.write(outcome, name)
