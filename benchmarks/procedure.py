"""How far the steps of Su et al. 2024 end from the constants that a table was made from, and the joint fit beside them.

    python benchmarks/procedure.py           # about 2 minutes on 2 cores; writes benchmarks/procedure.md

Noise-free tables are simulated from the published constants (Table 1: C4, WebText2): 7 sizes of 1M to 60M at the
largest batch, and a scan of one size over 6 smaller batches, 4M tokens and down by factors of 4; 60 rows a run, evenly
in log S from 300 on. The steps are biased by construction, as a finite run is not converged and a finite batch not
endless: the tables say by how much, and that it vanishes as the last step and the largest batch grow. (The contours of
the longest runs are the exception: 60 rows over so many steps are too few to interpolate between.)
"""

import time
from pathlib import Path

import jax
import numpy as np
import pandas as pd

import jaxscale as jsc
from jaxscale import laws, recipes

SIZES = np.geomspace(1e6, 6e7, 7)
LAWS = {"C4": laws.published["su2024-c4"], "WebText2": laws.published["kaplan2020-webtext2"]}
GROWN = ((1e4, 5e6), (1e5, 5e6), (1e6, 2e7), (1e8, 1e9), (1e10, 1e11), (1e12, 1e12))  # last step, largest batch
STEPS = {"1, 2, 3-4": ("sizes", "steps", "scan"), "1, 2, 5": ("sizes", "steps", "along"), "6, joint": ("joint",)}


def table(law, longest, largest, points=60):
    pairs = [(N, largest) for N in SIZES] + [(SIZES[3], 4e6 / 4**k) for k in range(6)]
    S = np.geomspace(300, longest, points)
    with jax.enable_x64(True):
        return pd.concat([pd.DataFrame({"run": run, "N": N, "B": B, "S": S, "loss": np.asarray(law(N, S, B))})
                          for run, (N, B) in enumerate(pairs)], ignore_index=True)


def biases(law, longest, largest):
    """step -> constant -> ln(found / true)."""
    estimates = recipes.procedure(table(law, longest, largest)).estimates
    return {step: {name: np.log(value / getattr(law, name)) for name, (value, _) in found.items() if name != "E"}
            for step, found in estimates.items()}


def main():
    begun = time.time()
    lines = ["# The steps of Su et al. 2024 against the constants of simulated tables", "",
             "Written by `python benchmarks/procedure.py`; what it does is in its first lines. Each number is",
             "ln(found / true), so 0.01 is 1% too high; nan: the table cannot carry the step."]
    for name, law in LAWS.items():
        constants = [constant for constant in law.constants if constant != "E"]
        lines += ["", f"## {name}", "", "| last S | largest B | step | " + " | ".join(constants) + " |",
                  "|---" * (3 + len(constants)) + "|"]
        for longest, largest in GROWN:
            found = biases(law, longest, largest)
            for step, parts in STEPS.items():
                values = {constant: value for part in parts for constant, value in found.get(part, {}).items()}
                cells = " | ".join(f"{values.get(constant, np.nan):+.1e}" for constant in constants)
                lines.append(f"| {longest:.0e} | {largest:.0e} | {step} | {cells} |")
                print(lines[-1], flush=True)
    lines += ["", f"jaxscale {jsc.__version__}, jax {jax.__version__}, {jax.devices()[0].platform}, "
                  f"{time.time() - begun:.0f} s."]
    (Path(__file__).parent / "procedure.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
