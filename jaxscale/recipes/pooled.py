"""Constants that families of models have in common: the pooled fit, and what each family can borrow from the others."""

import numpy as np

from jaxscale.groups import fit_every_group
from jaxscale.laws import given
from jaxscale.runs import Runs

GRID = np.geomspace(0.05, 1.25, 13)  # where shared constants, exponents, are looked for
LEAST_SPREAD, UNTOLD = 0.05, 0.3  # of a logarithm between families, at least and where fewer than two families tell


def borrowed_constants(Law, families, share, borrow, objective):
    """What each family can borrow from all the others -> {family: {name: (value, sd of its log)}}, and the fits done.

    The constants `share` are those of the pooled fit of the other families, in which they are common and all the rest
    are each family's own: the least of sum_g m_g ln V_g, V_g the objective of family g at its best with those shared,
    m_g its number of sizes (a profile likelihood, each family with a noise of its own; a size counts once, however
    many rows it has). It is looked for on a grid, each point of which is one fit a family, and refined by a parabola.
    Other constants of `borrow` are medians over the families at those values. The spread between families is
    1.4826 times the median distance of each family's own best, of a shared constant for those that tell theirs to
    within a factor 3.

    Args:
        families: name -> `Runs` with N, D, loss. share: one or two names; borrow: names, of these and others.
    """
    names = list(families)
    Pooled, count = given(Law, share), [len(np.unique(runs.columns["N"])) for runs in families.values()]
    points = np.stack(np.meshgrid(*[GRID] * len(share), indexing="ij"), -1).reshape(-1, len(share))
    value, _ = _profile(Pooled, families, share, points, objective)
    with np.errstate(divide="ignore"):  # no noise, no objective
        likelihood = np.array(count) * np.log(np.where(np.isfinite(value), value, np.inf))  # [points, families]
    likelihood[:, np.all(likelihood == np.inf, axis=0)] = 0.0  # too few rows at any point
    pools = [np.delete(likelihood, i, axis=1).sum(axis=1) for i in range(len(names))]
    best = np.stack([_refined(pool.reshape([len(GRID)] * len(share))) for pool in pools])  # [pools, k]
    own = points[np.argmin(likelihood, axis=0)]
    told = np.stack([_told(likelihood.T.reshape(-1, *[len(GRID)] * len(share)), axis) for axis in range(len(share))])
    at_best, constants = _profile(Pooled, families, share, best, objective)
    found = {}
    for i, name in enumerate(names):
        others, found[name] = np.arange(len(names)) != i, {}
        for constant in dict.fromkeys((*share, *borrow)):
            if constant in share:
                j = share.index(constant)
                value, logs = best[i, j], np.log(own[others & told[j], j])
            else:
                logs = np.log(constants[constant][i, others])
                value = np.exp(np.nanmedian(logs))
            off = np.abs(logs - np.log(value))
            spread = 1.4826 * np.nanmedian(off) if len(off) > 1 else UNTOLD
            found[name][constant] = (float(value), float(max(spread, LEAST_SPREAD)))
    return found, len(points) * len(names) + at_best.size


def _told(likelihood, axis):
    """Which families [families] tell the shared constant of an axis: the grid's points within 2 of the best profile
    likelihood [families, GRID, ..] span less than a factor 3."""
    others = tuple(1 + other for other in range(likelihood.ndim - 1) if other != axis)
    profile = likelihood.min(axis=others)
    near = profile <= profile.min(axis=1, keepdims=True) + 2
    return near.sum(axis=1) * np.log(GRID[1] / GRID[0]) < np.log(3)


def _profile(Pooled, families, share, points, objective):
    """Objectives [points, families] with the shared constants at points [points, k], and the constants, in one call."""
    sizes = [len(runs) for runs in families.values()]
    columns = {name: np.tile(np.concatenate([runs.columns[name] for runs in families.values()]), len(points))
               for name in ("N", "D", "loss")}
    columns |= {f"{name}_given": np.repeat(points[:, j], sum(sizes)) for j, name in enumerate(share)}
    columns["fit"] = np.repeat(np.arange(len(points) * len(sizes)), np.tile(sizes, len(points)))
    many = fit_every_group(Pooled, Runs.from_columns(columns), "fit", objective=objective, errors=None)
    shape = len(points), len(sizes)
    return many.objective.reshape(shape), {name: getattr(many.law, name).reshape(shape) for name in Pooled.constants}


def _refined(value):
    """The shared constants [k] of least value on the grid [GRID, ..], moved to the parabola's lowest point on each
    axis."""
    at, found = np.unravel_index(np.argmin(value), value.shape), []
    step = np.log(GRID[1] / GRID[0])
    for axis, i in enumerate(at):
        inner = min(max(i, 1), len(GRID) - 2)
        left, middle, right = (value[(*at[:axis], j, *at[axis + 1:])] for j in (inner - 1, inner, inner + 1))
        known = i == inner and np.isfinite([left, middle, right]).all() and left + right > 2 * middle
        move = 0.5 * (left - right) / (left - 2 * middle + right) if known else 0.0
        found.append(GRID[i] * np.exp(move * step))
    return np.array(found)
