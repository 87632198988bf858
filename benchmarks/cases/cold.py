"""(vi) From nothing: a process that ends with an answer."""

import sys
import tempfile
from pathlib import Path

import cold_start
from measuring import Measured, Row, Table

BENCHMARKS = str(Path(__file__).parents[1])
# A process of its own, so without jaxscale and JAX.
SCIPY = """
import sys
import numpy as np
from peers import additive
N, D, loss = (np.genfromtxt(sys.argv[1], delimiter=",", names=True)[name] for name in ("N", "D", "loss"))
ends, values = additive.projection(N, D, loss, np.ones(len(N)), additive.exponent_grid(12), 8)
print(ends[np.argmin(values)], values.min())
"""


def tables(times=3, say=None):
    table = Table("Processes", f"Medians of {times}. First call: nothing compiled is kept from before; wall: the "
                  "compilation cache is there.", say)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tasks = cold_start.tasks(folder)
        tasks["SciPy, the same search for (i) without errors: 144 nnls, 8 L-BFGS-B tight"] = [
            sys.executable, "-c", f"import sys; sys.path.insert(0, {BENCHMARKS!r}){SCIPY}", folder / "runs.csv"]
        for name, command in tasks.items():
            cold, warm = cold_start.cold_and_warm(command, folder, times)
            table.rows.append(Row(name, Measured(None, cold, warm, float("nan"))))
            table.say(f"{table.title} | {name} | {cold:.2f} s cold, {warm:.2f} s warm")
    return [table]
