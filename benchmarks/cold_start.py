"""How long the command takes from nothing: `jaxscale fit --law chinchilla` on 240 runs.

    python benchmarks/cold_start.py          # needs ../shared/data; writes benchmarks/cold_start.md

Each is the median of three processes, run one after the other on an otherwise idle machine, and compared with the time
that importing jax, optax and pandas takes alone. Cold: the compilation cache is empty. Warm: it is not.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import pandas as pd

import jaxscale as jsc

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data" / "chinchilla_epoch" / "points.csv"
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


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        lines = ["# From nothing to an answer", "", "Written by `python benchmarks/cold_start.py`.", "",
                 "| command | cold, s | warm, s | cold / imports |", "|---|---|---|---|"]
        imports = None
        for name, command in tasks(folder).items():
            cold, warm = cold_and_warm(command, folder)
            imports = imports or cold
            lines.append(f"| {name} | {cold:.2f} | {warm:.2f} | {cold / imports:.1f} |")
            print(lines[-1], flush=True)
    lines += ["", f"jaxscale {jsc.__version__}, jax {jax.__version__}, {os.cpu_count()} cores ({platform.machine()})."]
    (HERE / "cold_start.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
