"""Whether a fit can be believed: did it end at an optimum, and can the table tell the constants apart?"""

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxscale.errors import FitError

CONVERGED = 1e-8  # of the objective that Newton's model may still promise at an optimum
AGREES = 1e-8  # relative excess of the objective at which a start counts as having found the same optimum


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    """Why a fit can be believed, or not.

    `promised` is the share of the objective that Newton's model says is still to gain: below 1e-8 is an optimum. For
    least absolute deviations `vertex` says whether the exact vertex passed its test. `agreeing` of `starts` ended at
    the best objective. `condition` is that of the constants' correlation matrix. `at_bound` names constants there.
    """

    promised: float
    agreeing: int
    starts: int
    condition: float
    at_bound: tuple
    vertex: bool | None = None

    @property
    def converged(self):
        return self.promised <= CONVERGED if self.vertex is None else self.vertex


class Judged(NamedTuple):
    """What certificates are made of, with an axis of fits."""

    promised: np.ndarray
    agreeing: np.ndarray
    condition: np.ndarray
    inner: np.ndarray  # [fits, q], off the bounds

    @property
    def converged(self):
        return self.promised <= CONVERGED


def judge(lower, upper, points, values, looks, objective, floor):
    """Whether fits ended at optima -> `Judged`.

    Args:
      lower, upper: [q]; points: [fits, q], the best ends; values: [fits, starts], where all ended; looks: `Look` at the
      points; objective: [fits], without a prior's part; floor: [fits], the objective of rounding errors alone.
    """
    inner = (points > lower) & (points < upper)
    both, one = inner[:, :, None] & inner[:, None, :], np.eye(len(lower))
    gauss_newton, hessian = (np.where(both, x, one) for x in (looks.gauss_newton, looks.hessian))
    known = np.all(np.isfinite(hessian) & np.isfinite(gauss_newton), axis=(1, 2))  # not where a constant ran off
    gauss_newton, hessian = (np.where(known[:, None, None], x, one) for x in (gauss_newton, hessian))
    spread = np.sqrt(np.diagonal(gauss_newton, axis1=1, axis2=2))
    flat = ~np.all(spread > 0, axis=1)
    spread = np.where(spread > 0, spread, 1.0)
    condition = np.where(flat, np.inf, np.linalg.cond(gauss_newton / (spread[:, :, None] * spread[:, None, :])))
    gradient = np.where(inner, looks.gradient, 0.0)
    promised = np.minimum(_decrement(gradient, hessian), _decrement(gradient, gauss_newton))
    share = np.where(promised <= floor, 0.0, promised / np.maximum(objective, floor))
    return Judged(np.where(known, share, np.inf), agreeing(values, floor), np.where(known, condition, np.inf), inner)


def agreeing(values, floor=0.0):
    """How many of the ends' values [fits, starts] are the least one; 0 where none ended."""
    least = values.min(axis=1)
    return np.sum(np.isfinite(values) & (values <= (least + AGREES * np.abs(least) + floor)[:, None]), axis=1)


def _decrement(gradient, curvature):
    """Newton's decrement, the decrease that a quadratic model promises; inf where the model has no minimum."""
    values, vectors = np.linalg.eigh(curvature)
    along = np.einsum("fji,fj->fi", vectors, gradient)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values.min(axis=1) > 0, 0.5 * np.sum(along**2 / values, axis=1), np.inf)


def flat_directions(jacobian, weights, informed):
    """Directions [fits, q, q] of the free coordinates, and which of them the rows say nothing of [fits, q].

    jacobian: [fits, n, q]; weights: [fits, n]; informed: [q], 1.0 where a prior says something.
    """
    jacobian = jacobian * np.sqrt(weights)[..., None]
    size = np.linalg.norm(jacobian, axis=1)
    size[size <= 1e-12 * np.max(size, axis=1, keepdims=True)] = np.inf  # rounding errors: this constant changes nothing
    known = np.broadcast_to(np.diag(informed), (len(jacobian), len(informed), len(informed)))
    scaled = np.concatenate([jacobian / size[:, None], known], axis=1)
    _, singular, directions = np.linalg.svd(np.linalg.qr(scaled, mode="r"))
    return directions, singular < 1e-7 * singular[:, :1]


def check_identifiable(task, jacobian):
    """Raise FitError where the table cannot tell constants apart: the Jacobian [n, q] of the best start lacks rank."""
    directions, flat = (x[0] for x in flat_directions(jacobian[None], task.weights[None], task.informed))
    flat = directions[flat]
    if not len(flat):
        return
    names = [" = ".join(group) for group, involved in zip(task.groups, np.abs(flat).max(axis=0) > 1e-3, strict=True)
             if involved]
    few = [f"{column} takes {_levels(task.runs.columns[column])}" for column in task.names.values()
           if len(np.unique(task.runs.columns[column])) <= 3]
    which, why = " and ".join(", ".join(names).rsplit(", ", 1)), " because " + " and ".join(few) if few else ""
    of = f"{which} of {task.Law.__name__}"
    told = f"tell {of} apart" if len(names) > 1 else f"say what {of} is"
    one = names[0].split(" = ")[0]
    raise FitError(f"this table cannot {told}{why}: add runs, or hold one with fix={{{one!r}: ...}} (--fix {one}=...).")


def _levels(values):
    levels = np.unique(values)
    return f"one value ({levels[0]:g})" if len(levels) == 1 else f"only {len(levels)} values"
