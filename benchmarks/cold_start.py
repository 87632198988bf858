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
    begun = time.perf_counter()
    subprocess.run([str(x) for x in command], check=True, capture_output=True,
                   env=os.environ | {"XDG_CACHE_HOME": str(cache)})
    return time.perf_counter() - begun


def main():
    if not DATA.exists():
        raise SystemExit(f"the table of 240 runs is wanted at {DATA}: it is no part of the project.")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        table = pd.read_csv(DATA)
        table[table.excluded_in_paper == 0].to_csv(folder / "runs.csv", index=False)
        fit = [COMMAND, "fit", folder / "runs.csv", "--law", "chinchilla"]
        example = [COMMAND, "fit", "--example", "ladder", "--skip-steps", "600", "--objective", "squares",
                   "--weights", "run", "--free", "E", "--compute", "1e14"]
        tasks = {"importing jax, optax, pandas": [sys.executable, "-c", "import jax, optax, pandas"],
                 "`jaxscale --help`": [COMMAND, "--help"],
                 "`jaxscale fit runs.csv --law chinchilla`, 240 rows, 500 bootstrap draws": fit,
                 f"`jaxscale {' '.join(example[1:])}`, L(N, S, B), 459 rows": example}
        lines = ["# From nothing to an answer", "", "Written by `python benchmarks/cold_start.py`.", "",
                 "| command | cold, s | warm, s | cold / imports |", "|---|---|---|---|"]
        imports = None
        for name, command in tasks.items():
            cold = statistics.median(seconds(command, folder / f"{len(lines)}-{i}") for i in range(3))
            warm = statistics.median(seconds(command, folder / f"{len(lines)}-0") for _ in range(3))
            imports = imports or cold
            lines.append(f"| {name} | {cold:.2f} | {warm:.2f} | {cold / imports:.1f} |")
            print(lines[-1], flush=True)
    lines += ["", f"jaxscale {jsc.__version__}, jax {jax.__version__}, {os.cpu_count()} cores ({platform.machine()})."]
    (HERE / "cold_start.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
