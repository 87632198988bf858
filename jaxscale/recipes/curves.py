"""Training curves as functions: the loss of a run made monotone, and what is read off it."""

import dataclasses

import numpy as np

from jaxscale.errors import InputError

POINTS = 3  # that make a curve


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """What training tells of the loss of N parameters after a compute of C FLOPs.

    A curve is a run of several rows, or the finished runs (of one row) of one N. `rows` are the places of each curve's
    rows in the table, by rising C; `N` [curves] its parameters; `x`, `y` [rows of the table] ln C and ln loss.
    """

    rows: tuple[np.ndarray, ...]
    N: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def at(self, x, y=None):
        """ln loss [curves, m] at ln C [m], nan outside a curve's own range; of the losses `y` in place of the table's.

        Monotone in two ways: isotonic regression of the rows, and a cubic through its blocks that never overshoots.
        """
        y = self.y if y is None else y
        found = np.full((len(self.rows), len(x)), np.nan)
        for i, rows in enumerate(self.rows):
            inside = (x >= self.x[rows[0]]) & (x <= self.x[rows[-1]])
            if inside.any():
                found[i, inside] = _through(*falling(self.x[rows], y[rows]), x[inside])
        return found


def falling(x, y):
    """Isotonic regression of y [n], falling over rising x [n]: the middles of its blocks and their levels."""
    from scipy.optimize import isotonic_regression

    found = isotonic_regression(y, increasing=False)
    return np.add.reduceat(x, found.blocks[:-1]) / np.diff(found.blocks), found.x[found.blocks[:-1]]


def _through(middle, level, x):
    from scipy.interpolate import PchipInterpolator

    if len(middle) < 2:
        return np.full(len(x), level[0])
    return PchipInterpolator(middle, level)(np.clip(x, middle[0], middle[-1]))


def curves_of(N, D, loss, run):
    """The curves of a table's columns; rows that are in none (runs too short, sizes with too few) are left out.

    Where a curve has several rows at one C, that of least loss counts: the others are of worse settings.
    """
    x, y = np.log(6 * N) + np.log(D), np.log(loss)
    single = np.bincount(run)[run] == 1
    _, size = np.unique(N, return_inverse=True)
    curve = np.where(single, len(N) + size, run)
    rows = []
    for code in np.unique(curve):
        own = np.flatnonzero(curve == code)
        own = own[np.lexsort((y[own], x[own]))]
        own = own[np.diff(x[own], prepend=-np.inf) > 1e-9]
        if len(own) >= POINTS and np.ptp(N[own]) == 0:
            rows.append(own)
    return Curves(tuple(rows), np.array([N[own[0]] for own in rows]), x, y)


def checked_noise(noise):
    """A standard deviation as a float. Raises InputError for what is none."""
    if not (isinstance(noise, int | float | np.number) and 0 <= noise < np.inf):
        raise InputError(f"noise must be the standard deviation of the log loss, 0.003 say, not {noise!r}.")
    return float(noise)
