"""Whether a fit can be believed: did it end at an optimum, and can the table tell the constants apart?"""

import dataclasses

import numpy as np

from jaxscale.errors import FitError

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
        return self.promised <= 1e-8 if self.vertex is None else self.vertex


def certify(task, ends, best, objective, vertex=None):
    """The certificate of the fit that ended at index `best` of `ends`."""
    problem, point, value = task.problem(), ends.points[best], ends.values[best]
    inner = (point > problem.lower) & (point < problem.upper)
    unit = 1.0 if problem.log else np.max(problem.target)
    floor = 0.5 * problem.scale * len(task.observed) * (8 * np.finfo(np.float64).eps * unit) ** 2  # of rounding errors
    agreeing = int(np.sum(ends.values <= value + AGREES * abs(value) + floor))
    at_bound = tuple("=".join(group) for group, off in zip(task.groups, inner, strict=True) if not off)
    at = np.ix_(inner, inner)
    gauss_newton = ends.gauss_newtons[best][at]
    spread = np.sqrt(np.diag(gauss_newton))
    condition = float(np.linalg.cond(gauss_newton / np.outer(spread, spread))) if np.all(spread > 0) else np.inf
    promised = np.inf  # where a constant ran off so far that the curvature is no number
    if np.all(np.isfinite(ends.hessians[best])):
        promised = min(_decrement(ends.gradients[best][inner], curvature) for curvature in (ends.hessians[best][at],
                                                                                            gauss_newton))
    share = 0.0 if promised <= floor else float(promised / max(objective, floor))
    return Certificate(share, agreeing, len(ends.values), condition, at_bound, vertex)


def _decrement(gradient, curvature):
    """Newton's decrement, the decrease that a quadratic model promises; inf where the model has no minimum."""
    if not len(gradient):
        return 0.0
    values, vectors = np.linalg.eigh(curvature)
    return 0.5 * float(np.sum((vectors.T @ gradient) ** 2 / values)) if values.min() > 0 else np.inf


def check_identifiable(task, jacobian):
    """Raise FitError where the table cannot tell constants apart: the Jacobian [n, q] of the best start lacks rank."""
    jacobian = jacobian * np.sqrt(task.weights)[:, None]
    size = np.linalg.norm(jacobian, axis=0)
    informed = np.array([any(name in task.prior for name in group) for group in task.groups])
    size[size <= 1e-12 * np.max(size)] = np.inf  # rounding errors: this constant changes nothing
    scaled = np.concatenate([jacobian / size, np.diag(informed.astype(float))])
    _, singular, directions = np.linalg.svd(np.linalg.qr(scaled, mode="r"))
    flat = directions[np.concatenate([singular, np.zeros(len(directions) - len(singular))]) < 1e-7 * singular[0]]
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
