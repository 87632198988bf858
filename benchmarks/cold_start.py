"""How long a process of the command line takes, from nothing to an answer; shown by `suite.py --only vi`.

Each is the median of three processes, run one after the other on an otherwise idle machine. Cold: the compilation cache
is empty. Warm: it is not.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

DATA = Path(__file__).parents[2] / "shared" / "data" / "chinchilla_epoch" / "points.csv"
COMMAND = Path(sys.executable).parent / "jaxscale"


def seconds(command, cache):
    mine = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}  # the suite's
    begun = time.perf_counter()
    subprocess.run([str(x) for x in command], check=True, capture_output=True,
                   env=mine | {"XDG_CACHE_HOME": str(cache)})
    return time.perf_counter() - begun


def tasks(folder):
    """Name -> command; the table of 240 runs is written into the folder."""
    if not DATA.exists():
        raise SystemExit(f"the table of 240 runs is wanted at {DATA}: it is no part of the project.")
    table = pd.read_csv(DATA)
    table[table.excluded_in_paper == 0].to_csv(folder / "runs.csv", index=False)
    fit = [COMMAND, "fit", folder / "runs.csv", "--law", "chinchilla"]
    example = [COMMAND, "fit", "--example", "ladder", "--skip-steps", "600", "--objective", "squares",
               "--weights", "run", "--free", "E", "--compute", "1e14"]
    return {"importing jax, optax, pandas": [sys.executable, "-c", "import jax, optax, pandas"],
            "`jaxscale --help`": [COMMAND, "--help"],
            "`jaxscale fit runs.csv --law chinchilla`, 240 rows, 500 bootstrap draws": fit,
            f"`jaxscale {' '.join(example[1:])}`, L(N, S, B), 459 rows": example}


def cold_and_warm(command, folder, times=3):
    """Medians of `times` processes: with an empty compilation cache, and with a full one."""
    caches = [tempfile.mkdtemp(dir=folder) for _ in range(times)]
    return (statistics.median(seconds(command, cache) for cache in caches),
            statistics.median(seconds(command, caches[0]) for _ in caches))
