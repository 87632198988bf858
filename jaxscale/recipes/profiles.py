"""The least loss along lines of equal compute, read in three ways.

Throughout x [k, n] is ln N of n runs at k budgets, nan where there are fewer, and z [k, n] is ln(C / 6D), the same for
a run of exactly C; loss [draws, k, n] may be of many tables, with the same runs.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.solver import damped_newton

EXPONENTS = (0.02, 2.0)  # where the profile looks for alpha and beta; at 0.02 it is all but a parabola
STEPS = 40  # of Gauss and Newton's method,
BLOCK = 40  # with so many draws side by side: one shape is compiled for a grid
FINE = 25  # points between two sizes at which Akima's curve is looked at: Porian et al. 2024


@dataclasses.dataclass(frozen=True, eq=False)
class Minima:
    """ln N and loss of the minima [draws, k], nan where there is none inside the grid."""

    x: np.ndarray
    loss: np.ndarray
    exponents: np.ndarray | None = None  # [draws, 2]


def minima(how, x, z, loss):
    """The minima by "profile", "parabola" or "akima"."""
    if how == "profile":
        found = _profile(x, z, loss)
        best, least, exponents = found["x"], found["loss"], found["exponents"]
    else:
        each = [(_parabola if how == "parabola" else _akima)(at[np.isfinite(at)], along[:, np.isfinite(at)])
                for at, along in zip(x, np.swapaxes(loss, 0, 1), strict=True)]
        best, least, exponents = *(np.stack(part, axis=1) for part in zip(*each, strict=True)), None
    inside = (best > np.nanmin(x, axis=1)) & (best < np.nanmax(x, axis=1))
    return Minima(np.where(inside, best, np.nan), np.where(inside, least, np.nan), exponents)


def _parabola(x, loss):
    middle = x.mean()
    bend, slope, level = np.polyfit(x - middle, loss.T, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.where(bend > 0, -slope / (2 * bend), np.nan)
    return middle + at, level + at * slope / 2


def _akima(x, loss):
    from scipy.interpolate import Akima1DInterpolator

    grid = np.linspace(x[0], x[-1], FINE * (len(x) - 1))
    curve = Akima1DInterpolator(x, np.log(loss.T))(grid)
    at = np.argmin(curve, axis=0)
    return grid[at], np.exp(curve[at, np.arange(len(at))])


def _profile(x, z, loss):
    """Exponents [draws, 2], minima [draws, k] and residuals [draws, k, n] of the curves of shared exponents."""
    used = np.isfinite(x)
    middle = np.nanmean(x, axis=1, keepdims=True)
    blocks = np.resize(loss, (-(-len(loss) // BLOCK), BLOCK, *x.shape))
    x, z, inner, blocks = (_filled(values) for values in (x - middle, z - middle, used.astype(np.float64), blocks))
    with jax.enable_x64(True):
        parts = [jax.tree.map(np.asarray, _fit_profiles(x, z, inner, block)) for block in blocks]
    found = {name: np.concatenate([part[name] for part in parts])[:len(loss)] for name in parts[0]}
    rows, columns = used.shape
    return {"exponents": found["exponents"], "x": found["x"][:, :rows] + middle[:, 0], "loss": found["loss"][:, :rows],
            "residuals": found["residuals"][:, :rows, :columns]}


def _filled(values):
    """Arrays [..., k, n] filled with zeros, nan too, to multiples of 8: few shapes are compiled."""
    more = [(0, 0)] * (values.ndim - 2) + [(0, -size % 8) for size in values.shape[-2:]]
    return np.pad(np.nan_to_num(values), more)


@jax.jit
def _fit_profiles(x, z, used, loss):
    """e, a and b follow in closed form, and two unknowns are left: Gauss and Newton's method, from the best of a grid.

    Written in p = (1 - exp(-alpha x)) / alpha and q = (exp(beta z) - 1) / beta, as their mean and their difference:
    nearly x and x^2 / 2 where the exponents are small.
    """
    count, solver = jnp.maximum(used.sum(axis=1), 1.0), damped_newton()
    low, high = jnp.log(jnp.array(EXPONENTS))[:, None] * jnp.ones(2)
    grid = jnp.stack(jnp.meshgrid(*[jnp.linspace(low[0], high[0], 8)] * 2), axis=-1).reshape(-1, 2)

    def powers(x, z, alpha, beta):
        return -jnp.expm1(-alpha * x) / alpha, jnp.expm1(beta * z) / beta

    def centred(y):
        return used * (y - (y.sum(axis=1) / count)[:, None])

    def one(loss):
        y = centred(loss)

        def curves(place):
            alpha, beta = jnp.exp(place)
            p, q = powers(x, z, alpha, beta)
            u, v = centred((p + q) / 2), centred(2 * (q - p) / (alpha + beta))
            uu, uv, vv, uy, vy = (jnp.sum(f * g, axis=1) for f, g in ((u, u), (u, v), (v, v), (u, y), (v, y)))
            det = uu * vv - uv**2
            det = jnp.where(det > 0, det, 1.0)  # a budget that only fills the array
            c, d = (vv * uy - uv * vy) / det, (uu * vy - uv * uy) / det
            return c, d, y - c[:, None] * u - d[:, None] * v

        def left(place):
            residuals = curves(place)[2].ravel()
            return residuals, residuals

        def step(_, going):
            place, state = going
            slope, residuals = jax.jacfwd(left, has_aux=True)(place)
            move, state = solver.update(slope.T @ residuals, state, place, value=residuals @ residuals / 2,
                                        curvature=slope.T @ slope, lower=low, upper=high, floor=0.0)
            return place + move, state

        start = grid[jnp.argmin(jnp.sum(jax.vmap(left)(grid)[0] ** 2, axis=1))]
        place = jax.lax.fori_loop(0, STEPS, step, (start, solver.init(start)))[1].params
        c, d, residuals = curves(place)
        alpha, beta = jnp.exp(place)
        falling, rising = 2 * d / (alpha + beta) - c / 2, 2 * d / (alpha + beta) + c / 2  # minus p's, and q's
        at = jnp.where((falling > 0) & (rising > 0), jnp.log(falling / rising) / (alpha + beta), jnp.nan)
        p, q = powers(x, z, alpha, beta)
        level = jnp.sum(used * (loss - rising[:, None] * q + falling[:, None] * p), axis=1) / count
        p, q = powers(at, at, alpha, beta)
        return {"exponents": jnp.exp(place), "x": at, "loss": level + rising * q - falling * p, "residuals": residuals}

    return jax.vmap(one)(loss)


def noise_about_profile(x, z, loss):
    """Standard deviation of the log loss about the profile; nan without a degree of freedom."""
    used = np.isfinite(x)
    spare = used.sum() - 3 * len(x) - 2
    residuals = _profile(x, z, loss[None])["residuals"][0][used] / loss[used]
    return float(np.sqrt(residuals @ residuals / spare)) if spare > 0 else np.nan
