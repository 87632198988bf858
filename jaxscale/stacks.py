"""One question put many times side by side: to many tables, or to one table under many weightings of its rows.

A stack has one leading axis, of fits. Its tables are filled up to one length with rows of weight zero, and each of its
fits has a global search of its own. What comes out is the same as of a loop of single fits.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from jaxscale import uncertainty, vertex
from jaxscale.certificate import Judged, agreeing, flat_directions, judge
from jaxscale.laws.base import from_unconstrained
from jaxscale.minimise import Ends, blank_ends, rounding_floor
from jaxscale.problem import Look, Problem, Rows, look, rows
from jaxscale.starts import find_power_starts
from jaxscale.task import Task

STARTS = 16  # of each global search that are followed to their ends, where the first few do not agree
FIRST = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
    """Fits of one question."""

    task: Task  # the question; its table where all fits are of one
    problem: Problem  # of the table, or without its data where there are many
    data: dict  # fields of the problem that are each fit's own, with an axis of fits
    weights: np.ndarray  # [fits, n]
    run: np.ndarray  # [fits, n]
    phi: np.ndarray  # [fits], the noise that priors are weighed against; NaN: priors are left out

    @classmethod
    def of_weights(cls, task, weights):
        """Of one table; weights [fits, n]."""
        phi = np.full(len(weights), np.nan if task.phi is None else task.phi)
        return cls(task, task.problem(), {}, weights, np.broadcast_to(task.run, weights.shape), phi)

    @classmethod
    def of_tables(cls, task, inputs, observed, weights, run):
        """Of many tables [fits, n]; `task` is the question, put to any of them. Rows that fill up weigh nothing."""
        centre = task.centre_of(inputs, observed, weights > 0)
        known = task.power_sum_of(inputs, observed, centre)
        whole = task.laid_out(inputs, observed, centre, known)
        names = ["target", "centre"] + (["inputs"] if known is None else ["power_sum"])
        data = {name: getattr(whole, name) for name in names}
        empty = dataclasses.replace(whole, inputs=None, target=None, centre=None, power_sum=None)
        # A sum of powers is solved without its inputs; only the judgement of its end reads them.
        return cls(task, empty, data | {"inputs": inputs}, weights, run, np.full(len(weights), np.nan))

    def __len__(self):
        return len(self.weights)

    def rows(self, points):
        """`Rows` at points [fits, q], NumPy arrays."""
        return jax.tree.map(np.asarray, _rows(self.problem, self.data, points))

    def look(self, points):
        """`Look` at points [fits, q], NumPy arrays."""
        return jax.tree.map(np.asarray, _look(self.problem, self.data, self.weights, points))

    def starts(self, weights=None, count=STARTS, fits=None):
        """Free coordinates [fits, count, q], the best places of each fit's own search; `weights` to search with.

        fits: how many there are; those after them repeat the last one.
        """
        weights, whole = self.weights if weights is None else weights, dataclasses.replace(self.problem, **self.data)
        if whole.power_sum is not None:
            whole = whole if "power_sum" in self.data else whole.repeated(len(self))
            return find_power_starts(whole, weights, self.task.held, count)
        if "target" not in self.data:
            return self.task.starts_each(weights, count)
        found = np.stack([self._starts_of(i) for i in range(fits or len(self))])
        return found[np.minimum(np.arange(len(self)), len(found) - 1)]

    def _starts_of(self, i):
        """Of one table, by a search of its own; the last one again where there are fewer."""
        own = jax.tree.map(lambda x: x[i], self.data)
        target = own["target"]
        found = self.task.starts_of(dataclasses.replace(self.problem, **own), own["inputs"],
                                    np.exp(target) if self.problem.log else target, self.weights[i], STARTS)
        if not len(found):
            return np.full((STARTS, len(self.task.groups)), np.nan)
        return found[np.minimum(np.arange(STARTS), len(found) - 1)]

    def follow(self, fits, starts, progress=None, patience=None):
        """`Ends` [k, starts, ..] of fits [k] from starts [k, starts, q], of value inf where they did not end."""
        own = {name: value for name, value in self.data.items() if name != "inputs" or "power_sum" not in self.data}
        count, each, free = starts.shape
        ends = dataclasses.replace(self.task, optimizer=None).solve(
            starts.reshape(-1, free), {"weights": self.weights, **own}, np.repeat(fits, each), vertex.CORNERS[:4],
            self.problem if "target" in self.data else None, progress and (lambda ended: progress(ended / each)),
            patience)
        values = np.where(ends.done & np.all(np.isfinite(ends.points), axis=1), ends.values, np.inf)
        return Ends(*(part.reshape(count, each, *part.shape[1:]) for part in ends._replace(values=values)))


@jax.jit
def _rows(problem, data, points):
    return jax.vmap(lambda data, point: rows(dataclasses.replace(problem, **data), point))(data, points)


@jax.jit
def _look(problem, data, weights, points):
    return jax.vmap(lambda data, weights, point: look(dataclasses.replace(problem, **data), point, weights))(
        data, weights, points)


class Solved(NamedTuple):
    """Where the fits of a stack ended."""

    best: Ends  # the best end of each
    values: np.ndarray  # [fits, starts], inf where a start was not followed or did not end
    tried: np.ndarray  # [fits], starts followed
    flat: np.ndarray  # [fits], whether the table cannot tell the constants apart
    plain: np.ndarray  # [fits], whether centred coordinates have no slope there
    jacobian: np.ndarray  # [fits, n, q] at the best start


def solve(stack, count, starts=None):
    """The first `count` fits to their ends: from two starts, and from all of the search where those do not agree."""
    starts = stack.starts(fits=count) if starts is None else starts
    known = stack.rows(starts[:, 0])
    plain = ~np.all(np.isfinite(known.slope), axis=(1, 2)) | ~np.all(np.isfinite(known.jacobian), axis=(1, 2))
    able = ~plain & np.all(np.isfinite(starts[:, 0]), axis=1) & (np.arange(len(stack)) < count)
    flat = np.zeros(len(stack), bool)
    flat[able] = np.any(flat_directions(known.jacobian[able], stack.weights[able], stack.task.informed)[1], axis=1)
    fits = len(stack)
    ends, tried = settle(stack, np.flatnonzero(able & ~flat), starts)
    best = np.argmin(ends.values, axis=1)
    return Solved(Ends(*(part[np.arange(fits), best] for part in ends)), ends.values, tried, flat, plain,
                  known.jacobian)


def settle(stack, able, starts, progress=None):
    """Fits [able] from the first two of their starts [fits, starts, q], and from all where those do not agree.

    Returns:
      `Ends` [fits, starts], of value inf where a start was not followed; how many were [fits].
    """
    fits, each, free = starts.shape
    ends = Ends(*(part.reshape(fits, each, *part.shape[1:]) for part in blank_ends(fits * each, free)))
    ends.points[:] = np.nan_to_num(starts)
    tried = np.zeros(fits, int)
    for which in (slice(0, FIRST), slice(FIRST, each)):
        if len(able) and starts[:, which].size:
            for whole, part in zip(ends, stack.follow(able, starts[able, which], progress), strict=True):
                whole[able, which] = part
            tried[able] = min(which.stop, each)
        able, progress = able[agreeing(ends.values[able]) < 2], None
    return ends, tried


def weigh_priors(stack, solved, count):
    """The stack whose priors are weighed against the noise at its fits without them, and its fits with them."""
    task = stack.task
    phi = uncertainty.noise(task.objective, stack.rows(solved.best.points).residuals, stack.weights)
    mean, precision = dataclasses.replace(task, phi=1.0).prior_terms(task.prior)
    data = stack.data | {"prior_mean": np.tile(mean, (len(stack), 1)), "prior_precision": phi[:, None] * precision}
    stack = dataclasses.replace(stack, data=data, phi=phi)
    return stack, solve(stack, count, np.concatenate([solved.best.points[:, None], stack.starts(fits=count)], axis=1))


class Concluded(NamedTuple):
    """What can be said of fits, with an axis of fits."""

    objective: np.ndarray  # without a prior's part
    judged: Judged
    covariance: np.ndarray  # [fits, p, p] of theta, the sandwich
    standard_errors: np.ndarray  # [fits, p] of the constants
    rows: Rows
    outside: np.ndarray  # the share of the weight whose residuals lie outside the objective's corner
    hessian: np.ndarray  # [fits, q, q]
    law: object  # with an axis of fits


@np.errstate(all="ignore")  # of fits that ended nowhere
def conclude(stack, points, values, ends=None, objective=None, jackknife=False):
    """Judge the points [fits, q], the best ends of `values` [fits, starts], and say how sure the constants are.

    ends: `Ends` at the points, where the solver's own derivatives there are known; jackknife: by leaving runs out.
    """
    task, problem = stack.task, dataclasses.replace(stack.problem, **stack.data)
    known = stack.rows(points)
    residuals, jacobian, theta, slope = known
    prior = np.broadcast_to(problem.prior_precision, points.shape)
    information = prior[:, :, None] * np.eye(points.shape[1])
    if objective is None:
        objective = values.min(axis=1) - 0.5 * np.sum(prior * (points - problem.prior_mean) ** 2, axis=1)
    side = stack.weights * np.where(residuals > 0, problem.overestimate, 1.0) * problem.scale
    if ends is None or not np.all(ends.exact | np.isinf(ends.values)):  # no Hessian is positive definite there, say
        looks = stack.look(points)
    else:
        cautious = side * np.minimum(1.0, problem.delta / np.abs(residuals))
        looks = Look(ends.values, ends.gradients, _squared(jacobian, cautious) + information, ends.curvatures)
    unit = 1.0 if problem.log else np.max(problem.target, axis=-1)
    floor = rounding_floor(problem, stack.weights.shape[1], np.float64) * unit**2
    judged = judge(problem.lower, problem.upper, points, values, looks, objective, floor * np.ones(len(stack)))
    bend = looks.hessian - _squared(jacobian, side * (np.abs(residuals) <= problem.delta)) - information
    free = uncertainty.clustered_sandwich(task.objective, residuals, jacobian, bend, stack.weights, stack.run,
                                          information, judged.inner, jackknife)
    covariance = slope @ free @ np.swapaxes(slope, 1, 2)
    errors = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)) * sizes(task, theta)
    outside = np.average(np.abs(residuals) > task.objective.delta, weights=stack.weights, axis=1)
    at_bound = ~judged.inner @ task.selected.T  # a bound is not an estimate
    return Concluded(objective, judged, covariance, np.where(at_bound, np.nan, errors), known,
                     outside, looks.hessian, laws(task, theta))


def model_covariance(stack, found):
    """Covariances [fits, p, p] of theta where every row is on its own and of like noise; of what is `Concluded`."""
    task, slope, inner = stack.task, found.rows.slope, found.judged.inner
    rows = np.sum(stack.weights > 0, axis=1)
    phi = uncertainty.noise(task.objective, found.rows.residuals, stack.weights) * rows / (rows - inner.sum(axis=1))
    both = inner[:, :, None] & inner[:, None, :]
    inverse = np.where(both, np.linalg.pinv(np.where(both, found.hessian, 0.0), hermitian=True), 0.0)
    return slope @ (phi[:, None, None] * inverse) @ np.swapaxes(slope, 1, 2)


def sizes(task, theta):
    """What an error of theta [fits, p] is multiplied by to be one of the constants."""
    return np.stack([np.exp(theta[:, i]) if about.positive else np.ones(len(theta))
                     for i, about in enumerate(task.Law.constants.values())], axis=1)


def _squared(jacobian, weights):
    """Jacobian' diag(weights) jacobian [fits, q, q]."""
    return np.swapaxes(jacobian * weights[..., None], 1, 2) @ jacobian


def laws(task, theta):
    """The law, or the laws, of unconstrained constants [..., p]; held ones have their value to the last digit."""
    held = {name: np.full(theta.shape[:-1], value) for name, value in task.held.items()}
    return dataclasses.replace(from_unconstrained(task.Law, theta), **held)
