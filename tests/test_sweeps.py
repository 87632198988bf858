"""Oracles: `fit_groups` on the whole table at once, and the bytes that a sweep which nothing disturbed has written.

The processes that are killed, or work together, run a script; they keep compiled code in one folder.
"""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import jaxscale as jsc
from jaxscale import laws

SCRIPT = """
import os, sys
import jax
import jaxscale as jsc
table, folder, *cluster = sys.argv[1:]
if cluster:
    jax.distributed.initialize(f"localhost:{cluster[0]}", 2, int(cluster[1]))
    print(jax.process_count(), len(jax.local_devices()), flush=True)
jsc.sweep("power-law", table, folder, by="family", groups=3, x="N", objective=jsc.squares())
"""


def groups(count=11, rows=8):
    """Power laws with 1% noise; the fourth family has a bad row, the last three have too few."""
    rng = np.random.default_rng(0)
    N = np.tile(np.geomspace(1e6, 1e9, rows), count)
    family = np.repeat([f"f{i}" for i in range(count)], rows)
    loss = (1e12 / N) ** np.repeat(rng.uniform(0.05, 0.3, count), rows) * np.exp(0.01 * rng.standard_normal(len(N)))
    loss[3 * rows + 2] = np.nan
    table = pd.DataFrame({"N": N, "loss": loss, "family": family})
    few = pd.DataFrame({"N": 1e6, "loss": 3.0, "family": [f"few{i}" for i in range(3)]})
    return pd.concat([table, few], ignore_index=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the table, and what an undisturbed process makes of it."""
    place = tmp_path_factory.mktemp("sweeps")
    groups().to_parquet(place / "big.parquet")
    assert finish(start(place, "whole"))[0] == 0
    return place


def start(place, folder, *cluster):
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(place / "cache"), "XLA_FLAGS": "",
                                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    command = [sys.executable, "-c", SCRIPT, str(place / "big.parquet"), str(place / folder), *map(str, cluster)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def finish(process):
    """Exit code, and what it said."""
    said = process.communicate(timeout=120)[0]
    return process.returncode, said


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_the_parts_are_the_groups_fitted_at_once(place):
    frame = pd.read_parquet(place / "whole")
    assert len(list((place / "whole").glob("*.parquet"))) == 5 and len(frame) == 14
    many = jsc.fit_groups(laws.PowerLaw, place / "big.parquet", by="family", x="N", objective=jsc.squares())
    expected = many.to_frame(errors=True)
    assert list(frame.columns) == list(expected.columns) and frame.family.tolist() == expected.family.tolist()
    assert frame.reason.fillna("").tolist() == expected.reason.fillna("").tolist()
    assert frame.converged.tolist() == expected.converged.tolist() and frame.converged.sum() == 10
    for name in ("x_c", "alpha", "x_c_error", "alpha_error", "objective"):
        np.testing.assert_allclose(frame[name], expected[name], rtol=1e-6)
    assert "nan" in frame.reason[3] and "at least as many rows" in frame.reason[13]


def test_a_killed_sweep_goes_on_to_the_same_bytes(place):
    process, folder = start(place, "killed"), place / "killed"
    while not (folder / "part-00001.parquet").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    finish(process)
    for name in ("part-00003.parquet", "part-00004.parquet"):  # had it been quicker than the signal
        (folder / name).unlink(missing_ok=True)
    (folder / ".part-00003.parquet.torn").write_bytes(b"half a part")
    kept = os.stat(folder / "part-00000.parquet").st_mtime_ns
    assert finish(start(place, "killed"))[0] == 0
    assert contents(folder) == contents(place / "whole")
    assert os.stat(folder / "part-00000.parquet").st_mtime_ns == kept


def test_two_processes_share_the_parts(place):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for code, said in map(finish, [start(place, "shared", port, i) for i in range(2)]):
        assert code == 0 and said.startswith("2 1")
    assert contents(place / "shared") == contents(place / "whole")


def test_progress_counts_the_groups_that_are_there(place):
    counted = []
    question = {"x": "N", "objective": jsc.squares()}
    parts = jsc.sweep("power-law", place / "big.parquet", place / "whole", by="family", groups=3, **question,
                      progress=counted.append)
    assert counted == [3, 3, 3, 3, 2] and parts == sorted((place / "whole").glob("*.parquet"))


def test_a_folder_of_something_else_is_refused(place):
    whole, question = place / "whole", {"by": "family", "groups": 3, "x": "N", "objective": jsc.squares()}
    with pytest.raises(jsc.InputError, match="another sweep, of another objective"):
        jsc.sweep("power-law", place / "big.parquet", whole, **(question | {"objective": jsc.huber(0.1)}))
    with pytest.raises(jsc.InputError, match="another sweep, of another table"):
        jsc.sweep("power-law", groups().head(-1).assign(loss=3.0), whole, **question | {"by": ["family"]})
    (place / "foreign").mkdir()
    groups().to_parquet(place / "foreign" / "mine.parquet")
    with pytest.raises(jsc.InputError, match="a folder of its own"):
        jsc.sweep("power-law", place / "big.parquet", place / "foreign", **question)
    with pytest.raises(jsc.InputError, match="a folder that can be written"):
        jsc.sweep("power-law", place / "big.parquet", place / "big.parquet" / "in", **question)


def test_a_question_that_is_wrong_for_all_is_refused(place):
    with pytest.raises(jsc.InputError, match="'gamma'"):
        jsc.sweep("power-law", place / "big.parquet", place / "wrong", by="family", x="N", fix={"gamma": 1.0})
