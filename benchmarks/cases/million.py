"""A million small fits: power laws of 8 runs each, 1% noise, squares of logs, in blocks."""

import numpy as np
from measuring import Table

import jaxscale as jsc
from jaxscale import laws


def simulate(groups, rows=8, seed=0):
    """A table of `groups` power laws."""
    rng = np.random.default_rng(seed)
    N = np.exp(rng.uniform(np.log(1e6), np.log(1e9), (groups, rows)))
    alpha = rng.uniform(0.02, 0.15, (groups, 1))
    loss = (1e12 / N) ** alpha * np.exp(0.01 * rng.standard_normal((groups, rows)))
    return jsc.Runs.from_columns({"N": N.ravel(), "loss": loss.ravel(),
                                  "group": np.repeat(np.arange(groups, dtype=float), rows)})


def tables(groups=1_000_000, say=None):
    table = Table(f"{groups:,} groups of 8", "Peak MB: over what the table itself takes; the result is in it.", say)
    runs = simulate(groups)

    def ours():
        return jsc.fit_groups(laws.PowerLaw, runs, by="group", x="N", objective=jsc.squares(), errors=None)

    table.add("jaxscale.fit_groups(errors=None)", ours, warm=0)
    for row in table.had():
        many = row.measured.result
        row.told = {"converged": f"{many.converged.mean():.6f}", "reached from two starts": f"{many.confirmed:.6f}",
                    "fits a second": f"{groups / row.seconds:,.0f}"}
    return [table]
