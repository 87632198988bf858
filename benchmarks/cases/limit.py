"""The machine's limit: the bare exp, log and multiplications of a sweep over the rows, in compiled XLA."""

import concurrent.futures
import os
import time

import internals
import jax
import jax.numpy as jnp
import numpy as np
from measuring import Table
from peers import additive

from cases import one_fit


def _bare(theta, x, y, z):
    """Residuals of one fit and the Jacobian's columns times them, all in one sum: 2 exp, a log, a division a row.

    One sum, so that XLA makes one pass: for several it would work the exponentials out again.
    """
    a, b, e, alpha, beta = theta
    first, second = jnp.exp(a - alpha * x), jnp.exp(b - beta * y)
    total = first + second + e
    r, inverse = jnp.log(total) - z, 1 / total
    one, two = first * inverse, second * inverse
    return jnp.sum(r * (r + one + two + e * inverse + one * x + two * y))


def tables(data=None, fits=1024, warm=10, say=None):
    """fits: that advance together."""
    N, D, loss = one_fit.columns() if data is None else data
    table = Table(f"Sweeps over {fits:,} fits of {len(N)} runs", "An element is one row of one fit. A sweep of "
                  "jaxscale's gives the value, the gradient and the curvature. Cores: processor seconds over "
                  "wall.", say)
    logs, fit = additive.Logs(N, D, loss, np.ones(len(N))), one_fit.fit(N, D, loss)
    points = additive.exponent_points(int(np.log2(fits)))
    starts = additive.constants_of(additive.projected_starts(N, D, loss, np.ones(len(N)), points, fits))
    with jax.enable_x64(True):
        held = [jnp.asarray(column) for column in (logs.x, logs.y, logs.z)]
        theta = jnp.asarray(np.array([logs.move(each) for each in np.stack(
            [np.log(starts[:, 1]), np.log(starts[:, 2]), starts[:, 0], starts[:, 3], starts[:, 4]], axis=1)]))
        compiled = jax.jit(jax.vmap(_bare, in_axes=(0, None, None, None)))
        parts = jnp.array_split(theta, os.cpu_count())
    pool = concurrent.futures.ThreadPoolExecutor(len(parts))

    def part(some):
        with jax.enable_x64(True):
            return jax.block_until_ready(compiled(some, *held))

    sweep = internals.sweeps(fit, starts)
    taken = internals.iterations(fit, starts)
    for who, call, sweeps, times in (
            ("bare work of a residual and its Jacobian, XLA", lambda: part(theta), fits, warm),
            ("the same, a part on each core", lambda: list(pool.map(part, parts)), fits, warm),
            ("jaxscale.problem.sweep, vmapped", sweep, fits, warm),
            (f"jaxscale's solver, whole, {taken.mean():.1f} sweeps a fit", lambda: internals.solve(fit, starts),
             int(taken.sum()), 2)):
        table.add(who, call, warm=times)
        if table.rows[-1].measured is not None:
            table.rows[-1].told = {"ns per element and sweep": f"{table.rows[-1].seconds / sweeps / len(N) * 1e9:.2f}",
                                   "cores": f"{_cores(call):.2f}"}
    return [table]


def _cores(call):
    wall, spent = time.perf_counter(), time.process_time()
    call()
    return (time.process_time() - spent) / (time.perf_counter() - wall)
