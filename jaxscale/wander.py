"""How the losses of runs wander about a fitted law: an offset a run, a drift along it, and noise.

    ln loss = ln law + offset + drift(ln step) + noise

The offset is a constant of the run, the drift an Ornstein-Uhlenbeck process in the logarithm of steps (or tokens):
residuals of real trajectories are smooth there, and taking rows as independent would make any forecast overconfident.
"""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import numpy as np

from jaxscale.errors import InputError
from jaxscale.problem import Whitening, rows

ROWS, RUNS = 16, 64  # of a run, and of a table, that are looked at
OFFSETS, NOISES = 4.0 ** np.arange(-3, 6), 4.0 ** np.arange(-7, 4)  # variances over the drift's
LENGTHS = 2.0 ** np.arange(-3, 3)
LARGEST = 1 << 24  # numbers that the matrices of whitening may be


class Wander(NamedTuple):
    """Standard deviations of the logarithm of a loss, and the length of the drift's memory."""

    offset: float
    drift: float  # its stationary one
    length: float  # over which the drift forgets by a factor e, in units of ln step
    noise: float  # of a row, independent of the others


def wander_of(fit):
    """What the residuals of a fit say: None for one that has no trajectories, or that was read from a file without it.

    The most likely of a grid of processes, the scale in closed form; the variance is enlarged by runs / (runs -
    constants), since the constants were fitted to the same residuals.
    """
    known = fit.facts.get("wander")
    if known or fit.task is None:
        return known and Wander(**known)
    task = dataclasses.replace(fit.task, whitening=None)
    depth, places = _trajectories(task)
    with jax.enable_x64(True):
        residuals = np.asarray(rows(task.problem(), fit.point).residuals)
    if not task.objective.log:
        residuals = np.log1p(residuals / task.observed)
    few = len(places) / max(len(places) - len(task.groups), 1)
    places = [place[np.linspace(0, len(place) - 1, min(len(place), ROWS)).astype(int)] for place in places]
    places = [place for place in places if depth is not None and np.ptp(depth[place]) > 0][:RUNS]
    return most_likely([residuals[place] for place in places], [depth[place] for place in places], few) if places else (
        None)


def scatter_of(fit, predicted):
    """The standard deviation of ln loss of one row of a new run about a fit's law, at losses `predicted`.

    Its seed's offset, drift and noise where the table has trajectories, else the residuals'.
    """
    known = wander_of(fit)
    if known is not None:
        return np.full(np.shape(predicted), np.sqrt(known.offset**2 + known.drift**2 + known.noise**2))
    rms = fit.facts["rms_residual"] * np.sqrt(fit.facts["points"] / max(fit.facts["points"] - fit.free, 1))
    return rms * np.ones(np.shape(predicted)) if fit.facts["objective"]["log"] else rms / predicted


def _trajectories(task):
    """The logarithm of the rows' steps, None for a law of sizes alone, and where the rows of each run stand."""
    along = next((x for name, x in zip(task.names.values(), task.inputs, strict=True) if name in "SDCM"), None)
    used = np.flatnonzero(task.weights > 0)
    order = used[np.argsort(task.run[used], kind="stable")]
    runs = np.split(order, np.flatnonzero(np.diff(task.run[order])) + 1)
    return None if along is None else np.log(along), runs


def whitening_of(task, wander):
    """`Whitening` of a task's rows by how its runs wander; a row that is alone keeps its own variance.

    Each run's residuals are multiplied by the inverse of the Cholesky factor of their covariance over its diagonal:
    the squares that are left to minimise are those of generalised least squares (Aitken 1936).
    """
    depth, runs = _trajectories(task)
    longest = max(map(len, runs))
    if len(runs) * longest**2 > LARGEST:
        raise InputError(f"rows that are correlated are weighed by a matrix a run, and {len(runs)} runs of up to "
                         f"{longest} rows are too long for that: leave rows out, as with runs.thin(100).")
    places, factors = np.full((len(runs), longest), len(task.weights)), np.zeros((len(runs), longest, longest))
    parts = np.square([wander.offset, wander.drift, wander.noise])
    offset, drift, noise = parts / parts.sum()
    for i, rows_of in enumerate(runs):
        t, n = depth[rows_of], len(rows_of)
        if np.ptp(task.weights[rows_of]) > 0:
            raise InputError("rows that are correlated along their run are weighed by that, and the table's weights "
                             "differ inside a run: leave them out, or give each run one weight.")
        drifts = drift * np.exp(-np.abs(t[:, None] - t) / wander.length)
        covariance = offset + drifts + (noise + 1e-9) * np.eye(n)
        places[i, :n], factors[i, :n, :n] = rows_of, np.linalg.inv(np.linalg.cholesky(covariance))
    return Whitening(places, factors)


def most_likely(residuals, depths, enlarged=1.0):
    """`Wander` of runs, given by lists of their residuals [n] and of the logarithms of their steps [n].

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> depths = [np.linspace(4, 10, 24)] * 200
    >>> found = most_likely([0.02 * rng.standard_normal() + 0.002 * rng.standard_normal(24) for _ in depths], depths)
    >>> print(round(found.offset, 3), found.noise < 0.003)
    0.019 True
    """
    ratios, half = (1.0, 1.0, 1.0), (0.5, 1.0, 2.0)
    for grids in ((OFFSETS, NOISES, LENGTHS), (half, half, (1.0,))):  # then between the points of the grid
        grid = np.array([*itertools.product(*(np.multiply(x, ratio) for x, ratio in zip(grids, ratios, strict=True)))])
        offset, noise, length = (column[:, None, None] for column in grid.T)
        square, spread, count = np.zeros(len(grid)), np.zeros(len(grid)), 0
        for r, t in zip(residuals, depths, strict=True):
            root = np.linalg.cholesky(offset + noise * np.eye(len(r)) + np.exp(-np.abs(t[:, None] - t) / length))
            square += np.sum(np.linalg.solve(root, r[:, None])[..., 0] ** 2, axis=1)
            spread += np.sum(np.log(np.diagonal(root, axis1=1, axis2=2)), axis=1)
            count += len(r)
        best = int(np.argmin(0.5 * count * np.log(np.maximum(square, 1e-300)) + spread))
        ratios, scale = grid[best], np.sqrt(enlarged * square[best] / count)
    offset, noise, length = ratios
    return Wander(float(scale * offset**0.5), float(scale), float(length), float(scale * noise**0.5))
