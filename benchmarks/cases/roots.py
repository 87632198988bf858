"""(iv) A million losses of the implicit law L(N, S, B), and their derivatives in its six constants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from measuring import Table
from peers import additive, implicit

from jaxscale import laws

LAW = laws.published["su2024-c4"]
NAMES = ("N_c", "alpha_N", "S_c", "alpha_S", "B_star", "alpha_B")
CONSTANTS = np.array([getattr(LAW, name) for name in NAMES])
RANGES = np.array([(1e5, 1e13), (1.0, 1e8), (1e2, 1e9)])  # of N, S and B


def inputs(n, seed=0):
    """N, S, B [3, n], log-uniform over the ranges, exact in float32."""
    low, high = np.log(RANGES).T[..., None]
    return np.exp(np.random.default_rng(seed).uniform(low, high, (3, n))).astype(np.float32).astype(np.float64)


@jax.jit
def _with_columns(constants, N, S, B):
    """L [n] and its derivatives in the six constants [6, n], forward."""
    def loss(constants):
        return laws.KaplanNSB(*constants)(N, S, B)

    return jax.vmap(lambda e: jax.jvp(loss, (constants,), (e,)), out_axes=(None, 0))(jnp.eye(6, dtype=N.dtype))


def tables(n=1_000_000, checked=50_000, looped=20_000, passes=100, warm=5, say=None):
    """checked: of them compared with long double; looped: given to brentq; passes: of n in the longest row."""
    points, chosen = inputs(n), additive.some(np.arange(n), checked)
    exact = implicit.reference(CONSTANTS, *points[:, chosen])
    values = Table(f"{n:,} losses", f"Errors are relative, against {len(chosen):,} of them in long double. float32 "
                   "inputs are exact; its constants are rounded.", say)

    def ours(dtype, call):
        """`call` under the precision asked for, on arrays that are there already."""
        with jax.enable_x64(dtype is np.float64):
            held = tuple(jnp.asarray(column, dtype) for column in points)

        def run():
            with jax.enable_x64(dtype is np.float64):
                return jax.block_until_ready(call(*held))

        return run

    def add(who, peer, count=n, warm=2):
        at = additive.some(np.arange(n), count)
        values.add(who, functools.partial(peer, CONSTANTS, *points[:, at]), times=n / len(at), items=at, warm=warm)

    values.add("jaxscale, float64", ours(np.float64, LAW), warm=warm)
    values.add("jaxscale, float32", ours(np.float32, LAW), warm=warm)
    add("NumPy, 5 Newton steps in ln L from a lower bound, blocks in cache", implicit.newton)
    add("scipy.optimize.elementwise.find_root in ln L, tight bracket", implicit.find_root)
    add("NumPy, 64 bisections of L", implicit.bisection)
    add("scipy.optimize.brentq, a loop", implicit.brentq, looped, 0)
    for row in values.had():
        L, known = np.full(n, np.nan), np.arange(n) if row.items is None else row.items
        L[known] = row.measured.result
        row.told["largest error"] = f"{float(np.nanmax(np.abs(L[chosen] / exact - 1))):.1e}"
    result = [values]
    if passes:
        many = Table(f"{passes * n:,} losses, {n:,} at a time", "", say)
        for dtype in (np.float64, np.float32):
            once = ours(dtype, LAW)
            many.add(f"jaxscale, {dtype.__name__}", lambda once=once: [once() for _ in range(passes)][-1], warm=0)
        result.append(many)

    slopes = Table(f"{n:,} losses and their derivatives in six constants", "Errors are of d ln L / d ln constant, "
                   "absolute, against the same rows in long double.", say)
    wide = [np.asarray(x, np.longdouble) for x in points[:, chosen]]
    L, right = implicit.columns([np.longdouble(x) for x in CONSTANTS], *wide, steps=8)
    right = right / L[:, None]
    for dtype in (np.float64, np.float32):
        slopes.add(f"jaxscale, {dtype.__name__}, jax.vmap of jax.jvp over the law", ours(
            dtype, functools.partial(_with_columns, CONSTANTS.astype(dtype))), warm=warm)
    slopes.add("NumPy, 6 Newton steps and the implicit function theorem", lambda: implicit.columns(CONSTANTS, *points),
               warm=2)
    for row in slopes.had():
        L, columns = (np.asarray(part, np.float64) for part in row.measured.result)
        columns = columns[:, chosen].T * CONSTANTS if columns.shape[0] == 6 else columns[chosen]
        row.told["largest error"] = f"{float(np.max(np.abs(columns / L[chosen, None] - right))):.1e}"
    return [*result, slopes]
