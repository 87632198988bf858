"""(i) One global fit of Chinchilla's law to the 240 runs of Besiroglu et al. 2024 (Huber 1e-3 on logs, summed)."""

import functools
from pathlib import Path

import internals
import numpy as np
from measuring import Table
from peers import additive, published

import jaxscale as jsc
from jaxscale import laws

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "chinchilla_epoch" / "points.csv"
BEST = 1.0182740178006e-3  # where every method that converges ends on the 240 runs
CONSTANTS = ("E", "A", "B", "alpha", "beta")


def columns():
    """N, D and loss [240]: the digitised runs without the five of highest loss."""
    import pandas as pd

    if not DATA.exists():
        raise SystemExit(f"the table of 240 runs is wanted at {DATA}: it is no part of the project.")
    table = pd.read_csv(DATA)
    table = table[table.excluded_in_paper == 0]
    return tuple(table[name].to_numpy(np.float64) for name in ("N", "D", "loss"))


def simulated(n, rng, law=None, noise=0.01):
    """N, D and loss [n] from Chinchilla's law (the published one), t4 noise on the log loss."""
    law = additive.constants_of(additive.HOFFMANN) if law is None else law
    N, D = np.exp(rng.uniform(np.log([[5e7], [5e8]]), np.log([[2e10], [5e11]]), (2, n)))
    E, A, B, alpha, beta = law
    return N, D, (E + A * N**-alpha + B * D**-beta) * np.exp(noise * rng.standard_t(4, n))


def constants(law):
    """The constants [..., 5] of a law."""
    return np.stack([np.asarray(getattr(law, name)) for name in CONSTANTS], axis=-1)


def fit(N, D, loss, **how):
    return jsc.fit(laws.Chinchilla, jsc.Runs.from_columns({"N": N, "D": D, "loss": loss}), **{"errors": None} | how)


def tables(data=None, starts=4500, fast=450, slow=90, vmapped=512, adam_steps=(1000, 5000), tools=30, warm=3,
           projected=12, say=None):
    """starts: of the published grid for jaxscale; of them, fast, slow, vmapped, tools: how many peers are given."""
    from peers import gradient

    (N, D, loss), known = (columns(), BEST) if data is None else (data, np.inf)
    grid, ones = additive.grid_starts(), np.ones(len(N))
    table = Table(f"One fit, {len(N)} runs", "At the optimum: of the starts that were followed. Excess: of the best "
                  "end over the best known objective.", say)
    arrays, some = (N, D, loss, ones), functools.partial(additive.some, grid)
    raw = additive.constants_of(some(starts))
    raw[:, 3:] = np.maximum(raw[:, 3:], 0.02)  # jaxscale's exponents are positive

    table.add("jaxscale.fit, whole: 256 places searched, 16 starts", lambda: constants(fit(N, D, loss).law),
              warm=warm)
    found = fit(N, D, loss)
    table.add("jaxscale, its search and solver alone", lambda: internals.numerics(found), warm=warm)
    table.add("jaxscale's solver, the published grid of starts (exponents 0 moved to 0.02)",
              lambda: internals.solve(found, raw), times=len(grid) / len(raw), warm=1)
    exponents = additive.exponent_grid(projected)
    table.add(f"SciPy, the same strategy: {len(exponents)} nnls, 8 L-BFGS-B tight",
              lambda: additive.projection(*arrays, exponents, 8)[0], warm=warm)

    def add(who, peer, count, *more, warm=0, name="the published grid"):
        chosen = some(count)
        table.add(f"{who}, {name}", lambda: peer(*arrays, chosen, *more)[0], times=len(grid) / len(chosen), warm=warm)

    add("SciPy L-BFGS-B, numeric gradient, default tolerances (published protocol)",
        functools.partial(additive.lbfgsb, tight=False, gradient=False), slow)
    add("SciPy L-BFGS-B, analytic gradient, default tolerances", functools.partial(additive.lbfgsb, tight=False), fast)
    add("SciPy L-BFGS-B, analytic gradient, tight", additive.lbfgsb, fast)
    add("SciPy least_squares, Huber, analytic Jacobian, tight", additive.least_squares, slow)
    table.add("SciPy curve_fit, Huber, differences, one start (Hoffmann's constants)",
              lambda: additive.curve_fit(*arrays, additive.HOFFMANN[None])[0], warm=warm)
    for steps in adam_steps:
        add(f"optax.adam, vmapped, {steps:,} steps", gradient.adam, vmapped, steps, warm=1)
    add("optax.lbfgs, vmapped, up to 200 steps", gradient.lbfgs, vmapped // 8, 200, warm=1)
    add("optimistix LevenbergMarquardt, vmapped", gradient.levenberg, vmapped // 4, 500, warm=1)
    if tools:
        sides = ((-0.5, 0.5), (5.0, 10.0), (5.0, 10.0), (0.5, 1.0), (0.5, 1.0))
        for scale, how in ((1.0, "its own tolerances"), (1e6, "objective x 1e6")):
            table.add(f"chinchilla (PyPI), {how}, 32 starts of the grid, those around the optimum",
                      (_ends, "chinchilla", *arrays, sides, scale), times=len(grid) / 32, warm=0, apart=True)
        table.add("nlsq (PyPI), Huber, the published grid", (_ends, "nlsq", *arrays, some(tools)),
                  times=len(grid) / tools, warm=0, apart=True)
        table.absent("simple-scaling-laws (PyPI)", "has no Huber objective, and none on logs: see the next table")
    table.judge(lambda row: additive.huber_sum(row.measured.result.reshape(-1, 5), N, D, loss), np.min, known)
    return [table, *([squares(N, D, loss, warm, say)] if tools else [])]


def squares(N, D, loss, warm, say):
    """The objective that simple-scaling-laws has: squares of the loss itself."""
    table = Table(f"One fit, {len(N)} runs, squares of the loss itself", "", say)
    table.add("jaxscale.fit, whole", lambda: constants(fit(N, D, loss, objective=jsc.squares(log=False)).law)[None],
              warm=warm)
    table.add("simple-scaling-laws (PyPI), with its least number of draws, 2",
              (published.simple_scaling_laws, N, D, loss, 2), apart=True, warm=warm)
    table.judge(lambda row: published.squares_sum(row.measured.result[:1], N, D, loss), np.min)
    return table


def _ends(name, *arguments):
    return getattr(published, name)(*arguments)[0]
