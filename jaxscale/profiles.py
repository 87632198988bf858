"""Profiles of the objective: each constant, or a predicted loss, held at values about its best, all others refitted.

An interval holds the values at which the refitted objective has not risen by more than a share of its noise:

    2 (S(x) - S_min) / phi <= t^2,

t the quantile of Student's t of the level. For a law linear in its constants, squares and rows that are on their own it
is the exact t interval; for others it follows the valley where it bends, and does not end where nothing is known, which
the standard errors cannot say (Bates & Watts 1988, chapter 6). The unit phi is the rows' noise, or such that near the
optimum the rise is that of the fit's own standard errors, clustered by run (Rotnitzky & Jewell 1990).
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale import stacks, uncertainty
from jaxscale.errors import InputError, nearest
from jaxscale.laws.base import as_floats, from_unconstrained
from jaxscale.objectives import huber_value, side_weight
from jaxscale.prediction import evaluate, law_inputs
from jaxscale.problem import look, thetas_of
from jaxscale.task import Task
from jaxscale.wander import Wander, whitening_of

FIRST = np.array([0.5, 1.0, 1.6])  # where the first refits are on each side, of the half width by standard errors
ROUNDS = 12  # of refits at most
FARTHEST = math.log(1e3)  # from the best value that is looked at, of a logarithm
NEAR = 1e-3  # of t, to which an end is found
STEEP = 1e4  # what a held prediction weighs, over what the table itself says of it


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """How the objective rises away from the best value of one constant or quantity.

    `held` [k] are the values it was held at, ascending; `rise` [k] the rise there in units of the noise, whose root is
    as many standard errors; `law` the refitted laws, with an axis [k]. Where the rise stays below t up to a factor of
    1,000, or the law's own bound, the interval ends at that bound, and `bounded` (below, above) says so.
    """

    name: str
    value: float
    low: float
    high: float
    bounded: tuple
    held: np.ndarray
    rise: np.ndarray
    law: object

    @property
    def identified(self):
        """Whether the interval ends on both sides."""
        return all(self.bounded)


@dataclasses.dataclass(frozen=True, eq=False)
class Profiles:
    """`Profile`s by name, at one level. `print` shows them."""

    of: dict
    level: float
    errors: str
    width: float  # t
    better: bool  # a refit found a lower objective than the fit

    def __getitem__(self, name):
        return self.of[name]

    def __str__(self):
        width = max(map(len, self.of), default=0)
        lines = [f"{self.level:.0%} intervals by profiles, {self.errors}",
                 f"  {'':<{width}}{'best':>13}{'from':>13}{'to':>13}"]
        for name, one in self.of.items():
            ends = [f"{end:>13.6g}" if found else f"{'no end':>13}" for end, found in zip(
                (one.low, one.high), one.bounded, strict=True)]
            flag = "" if one.identified else "   NOT IDENTIFIED"
            lines.append(f"  {name:<{width}}{one.value:>13.6g}{''.join(ends)}{flag}")
        if self.better:
            lines.append("  a refit found a lower objective than the fit: fit again from there (start=)")
        return "\n".join(lines)

    __repr__ = __str__


def profile(fit, level=0.95, constants=None, at=None, errors="runs"):
    """Profiles of constants, and of the loss at a point, all refits side by side -> `Profiles`.

    Args:
      fit: a converged `Fit` with its table, by squares or Huber's function.
      level: of the intervals.
      constants: names; all that were fitted unless given.
      at: {"N": 1e10, "D": 2e11}: the prediction there is profiled too.
      errors: "runs": near the optimum as the fit's standard errors, t of runs - 1 degrees of freedom below 30 runs;
        "rows": every row on its own, t of rows - constants degrees.

    Raises:
      InputError: a fit without its table, not converged, of absolute deviations or without errors; an unknown name.

    Example:
      >>> import numpy as np, jaxscale as jsc
      >>> runs = jsc.Runs.from_columns({"x": np.ones(4), "loss": [3.2, 2.8, 3.0, 3.4]})
      >>> fit = jsc.fit(jsc.laws.PowerLaw, runs, fix={"x_c": 1.0, "alpha": 1.0}, free=("E",),
      ...               objective=jsc.squares(log=False))  # 1 + E is the mean
      >>> one = profile(fit, errors="rows")["E"]  # 2.1 -+ 3.182 0.2582 / 2
      >>> print(f"{one.low:.3f} {one.high:.3f}")
      1.689 2.511
    """
    task = _checked(fit, errors)
    with jax.enable_x64(True):
        point = task.point_of(fit.law)[0]
        curvature = np.asarray(look(task.problem(), point, task.weights).hessian)
        known = _Known(task, point, np.where(_inner(task, point), np.linalg.pinv(curvature, hermitian=True), 0.0))
        covariance, width, how = _noise(fit, known, level, errors)
        held = [_Constants(known, i) for i in _chosen(task, known, constants)]
        found = _searched(known, held, covariance, width)
        if at is not None:
            found += _searched(known, [_Prediction.of(known, fit, at)], covariance, width)
    better = any(np.min(one.rise, initial=0.0) < -1e-4 for one in found)
    return Profiles({one.name: one for one in found}, level, how, width, better)


def _checked(fit, errors):
    """The task of a fit in plain coordinates: the unconstrained constants themselves, tied ones as one."""
    if getattr(fit, "task", None) is None:
        raise InputError("a profile needs the runs, and a fit read from a file has none: fit the table again.")
    if fit.task.objective.name == "lad":
        raise InputError("a profile needs an objective with curvature, and absolute deviations have none: fit with "
                         "objective=huber(1e-3).")
    if not fit.converged:
        raise InputError("a profile rises from an optimum, and this fit did not converge: hold constants with fix=, or "
                         "add runs.")
    if errors not in ("runs", "rows"):
        raise InputError(f"errors= of a profile must be 'runs' or 'rows', not {errors!r}.")
    return dataclasses.replace(fit.task, centring=False, optimizer=None)


class _Known(NamedTuple):
    """The optimum and what is known there."""

    task: Task
    point: np.ndarray  # [q]
    inverse: np.ndarray  # [q, q], of the Hessian; zero for coordinates at a bound

    @property
    def names(self):
        return [" = ".join(group) for group in self.task.groups]


def _inner(task, point):
    inner = (point > task.problem().lower) & (point < task.problem().upper)
    return inner[:, None] & inner


def _noise(fit, known, level, errors):
    """Covariance [q, q] of the free constants, t, and what they are."""
    task, rows, free = known.task, int(np.sum(known.task.weights > 0)), len(known.point)
    if errors == "rows":
        if rows <= free:
            raise InputError(f"errors='rows' needs more rows than constants, and there are {rows} for {free}.")
        r = stacks.Stack.of_weights(task, task.weights[None]).rows(known.point[None]).residuals[0]
        phi = float(uncertainty.noise(task.objective, r, task.weights)) * rows / (rows - free)
        return phi * known.inverse, uncertainty.student(level, rows - free), f"rows on their own, {rows - free} degrees"
    # Of tied constants any one: they move together.
    first = [list(task.Law.constants).index(group[0]) for group in task.groups]
    covariance = uncertainty.as_matrix(fit.covariance)[np.ix_(first, first)]
    if not np.all(np.isfinite(covariance)):
        raise InputError(f"a profile by runs rises as the fit's own standard errors, which this fit does not know "
                         f"(errors: {fit.errors}): fit with errors='sandwich', or ask for errors='rows'.")
    return covariance, uncertainty.student(level, fit.degrees), f"as the {fit.errors.split(',')[0]}" + (
        f", t of {fit.degrees} degrees" if fit.degrees < math.inf else "")


def _chosen(task, known, constants):
    """Where the constants asked for stand among the free ones."""
    inside = np.diag(_inner(task, known.point))
    if constants is None:
        return np.flatnonzero(inside).tolist()
    names = (constants,) if isinstance(constants, str) else tuple(constants)
    places = {name: i for i, group in enumerate(task.groups) for name in group}
    for name in names:
        if name not in places:
            raise InputError(f"constants= names {name!r}, and those fitted are {', '.join(places)}"
                             f"{nearest(name, places) or '.'}")
        if not inside[places[name]]:
            raise InputError(f"{name} of this fit is at its bound, where there is no optimum to rise from: leave it "
                             "out, or widen the bound.")
    return list(dict.fromkeys(places[name] for name in names))


# ---- what is held


class _Constants(NamedTuple):
    """A free constant held at a value: its bounds are both there."""

    known: _Known
    place: int

    @property
    def name(self):
        return self.known.names[self.place]

    @property
    def slope(self):
        return np.eye(len(self.known.point))[self.place]

    @property
    def best(self):
        return self.known.point[self.place]

    @property
    def ends(self):
        """How far it may be moved."""
        problem = self.known.task.problem()
        about = self.known.task.Law.constants[self.known.task.groups[self.place][0]]
        far = FARTHEST if about.positive else FARTHEST * max(abs(self.best), 1.0)
        return max(problem.lower[self.place], self.best - far), min(problem.upper[self.place], self.best + far)

    def natural(self, x):
        about = self.known.task.Law.constants[self.known.task.groups[self.place][0]]
        return np.exp(x) if about.positive else x

    @property
    def limits(self):
        """Where an interval ends that has no end."""
        return [self.known.task.bounds[self.known.task.groups[self.place][0]][end] for end in (0, 1)]

    @staticmethod
    def refit(held, values, starts):
        """Free constants [k, starts, q], the objective [k, starts] and the values [k, starts] that were held."""
        task, problem = held[0].known.task, held[0].known.task.problem()
        rows, places = np.arange(len(values)), np.array([one.place for one in held])
        lower, upper = (np.tile(end, (len(values), 1)) for end in (problem.lower, problem.upper))
        lower[rows, places] = upper[rows, places] = values
        starts[rows, :, places] = values[:, None]
        points, objective = _followed(task, {"lower": lower, "upper": upper}, starts)
        return points, objective, np.broadcast_to(values[:, None], objective.shape)


class _Prediction(NamedTuple):
    """The log of the law's output at a point, held by one more row there that outweighs the table."""

    known: _Known
    task: Task  # with that row
    name: str
    inputs: dict
    slope: np.ndarray  # [q]
    best: float
    weight: float

    @classmethod
    def of(cls, known, fit, at):
        task, names = known.task, fit.facts["inputs"]
        inputs, shape = law_inputs(fit.law, {names.get(name, name): value for name, value in at.items()}, names)
        if shape:
            raise InputError(f"at= must be one point, numbers by name, not arrays of shape {shape}.")

        def log(u):
            return jnp.log(from_unconstrained(task.Law, task.problem().theta(u))(*(x[0] for x in inputs.values())))

        best, slope = float(log(known.point)), np.asarray(jax.jacfwd(log)(known.point))
        scale = task.objective.scale * (1.0 if task.objective.log else math.exp(2 * best))
        weight = STEEP / float(slope @ known.inverse @ slope) / scale
        columns = {task.names[name]: x for name, x in inputs.items()} | {task.Law.output: [math.exp(best)]}
        columns = {name: np.append(task.runs.columns[name], x) for name, x in columns.items()}
        runs = dataclasses.replace(task.runs, columns=columns, run=np.append(task.runs.run, task.runs.run.max() + 1),
                                   weights=np.append(task.runs.weights, 1.0), groups={},
                                   row=np.append(task.runs.row, task.runs.row.max() + 1))
        more = dataclasses.replace(task, runs=runs, row_weights=np.append(task.row_weights, weight), whitening=None)
        if task.whitening is not None:
            more = dataclasses.replace(more, whitening=whitening_of(more, Wander(**fit.facts["wander"])))
        said = ", ".join(f"{name} = {value:g}" for name, value in at.items())
        return cls(known, more, f"{task.Law.output} at {said}", inputs, slope, best, weight)

    @property
    def ends(self):
        return self.best - FARTHEST, self.best + FARTHEST

    @property
    def limits(self):
        return [0.0, math.inf]

    @staticmethod
    def natural(x):
        return np.exp(x)

    @staticmethod
    def refit(held, values, starts):
        """Free constants [k, starts, q], the objective [k, starts] without the row, and the predictions they make.

        The row is not met exactly, and need not be: the refit is the best one for what it predicts.
        """
        one, (count, each, _) = held[0], starts.shape
        task, problem, at = one.task, one.task.problem(), len(one.known.task.runs)
        target = np.tile(problem.target, (count, 1))
        target[:, at] = values if problem.log else np.exp(values)
        points, objective = _followed(task, {"target": target}, starts)
        theta = np.asarray(thetas_of(one.known.task.problem(), points.reshape(count * each, -1)))
        made = evaluate(as_floats(stacks.laws(task, theta)), one.inputs).reshape(count, each)
        r = np.log(made) - target[:, [at]] if problem.log else made - target[:, [at]]
        spent = problem.scale * one.weight * side_weight(r, problem.overestimate) * huber_value(r, problem.delta)
        return points, objective - np.asarray(spent), np.log(made)


def _followed(task, data, starts):
    """Where refits went from starts [k, each, q], and the objective there; `data` are fields that are each one's own.

    One that still crept along a flat valley when its steps ran out counts as it stood.
    """
    count, each, _ = starts.shape
    stack = stacks.Stack.of_weights(task, np.broadcast_to(task.weights, (count, len(task.weights))))
    stack = dataclasses.replace(stack, data=data)
    ends = stack.follow(np.arange(count), starts)
    if np.all(np.isfinite(ends.values)):
        return ends.points, ends.values
    stood = np.stack([stack.look(ends.points[:, i]).value for i in range(each)], axis=1)
    return ends.points, np.where(np.isfinite(ends.values), ends.values, stood)


# ---- the search for the ends


def _searched(known, held, covariance, width):
    """`Profile`s of what is held, all of one kind: refits on both sides, further out or nearer to where t is crossed.

    As many in every round, so that all share what is compiled.
    """
    if not held:
        return []
    slopes = np.stack([one.slope for one in held])
    tangents = slopes @ known.inverse  # [s, q]
    flat = np.einsum("sq,sq->s", tangents, slopes)
    sides = [_Side(one, sign, width * math.sqrt(max(slope @ covariance @ slope, 1e-300)))
             for one, slope in zip(held, slopes, strict=True) for sign in (-1, 1)]
    unit = np.repeat(2 * flat / np.einsum("sp,pq,sq->s", slopes, covariance, slopes), 2)
    ways = np.repeat(tangents / flat[:, None], 2, axis=0)
    least = float(look(known.task.problem(), known.point, known.task.weights).value)
    for _ in range(ROUNDS):
        values = np.concatenate([side.following(width) for side in sides])
        of = np.repeat(np.arange(len(sides)), len(FIRST))
        near = np.stack([sides[i].nearest(x, known.point) for i, x in zip(of, values, strict=True)])
        off = values - np.array([sides[i].held.best for i in of])
        straight = known.point + ways[of] * off[:, None]
        starts = np.clip(np.stack([straight, near], axis=1), known.task.problem().lower, known.task.problem().upper)
        points, objective, made = held[0].refit([sides[i].held for i in of], values, starts)
        best, rows = np.argmin(np.where(np.isfinite(objective), objective, np.inf), axis=1), np.arange(len(values))
        for i, point, value, x in zip(of, points[rows, best], objective[rows, best], made[rows, best], strict=True):
            if np.isfinite(value) and np.isfinite(x):
                sides[i].add(x, unit[i] * (value - least), point)
        if all(side.settled(width) for side in sides):
            break
    return [_profile(known, one, below, above, width) for one, below, above in zip(
        held, sides[::2], sides[1::2], strict=True)]


class _Side:
    """What is known below (sign -1) or above the best value of one thing that is held."""

    def __init__(self, held, sign, half):
        self.held, self.sign, self.half = held, sign, half
        self.limit = held.ends[0 if sign < 0 else 1]
        self.found = [(0.0, 0.0, None)]  # distance, rise, free constants; by distance

    def add(self, x, rise, point):
        if self.sign * (x - self.held.best) > 0:
            self.found = sorted([*self.found, (abs(x - self.held.best), rise, point)], key=lambda one: one[0])

    def bracket(self, width):
        """Places on either side of where the root of the rise is t: (distance, root) twice; the second None if not."""
        roots = [(distance, math.sqrt(max(rise, 0.0))) for distance, rise, _ in self.found]
        above = next((i for i, (_, root) in enumerate(roots) if root >= width), None)
        return (roots[-1], None) if above is None else (roots[above - 1], roots[above])

    def settled(self, width):
        low, high = self.bracket(width)
        room = abs(self.limit - self.held.best)
        if high is None:
            return low[0] >= room * (1 - 1e-9)
        return min(width - low[1], high[1] - width) < NEAR * width

    def following(self, width):
        """The next values to hold it at."""
        low, high = self.bracket(width)
        if len(self.found) == 1:
            distances = FIRST * self.half
        elif high is None:
            distances = low[0] * np.array([1.5, 2.5, 4.0])
        else:
            crossing = _crossing(low, high, width)
            distances = crossing + np.array([0.0, 0.1 * (low[0] - crossing), 0.1 * (high[0] - crossing)])
        room = abs(self.limit - self.held.best)
        return self.held.best + self.sign * np.minimum(distances, room)

    def nearest(self, x, point):
        """The free constants of the refit nearest to a value; at first the optimum's."""
        distance = abs(x - self.held.best)
        found = min(self.found, key=lambda one: abs(one[0] - distance))[2]
        return point if found is None else found

    def end(self, width):
        """The value where the root of the rise is t; None where it is not reached."""
        low, high = self.bracket(width)
        return None if high is None else self.held.best + self.sign * _crossing(low, high, width)


def _crossing(low, high, width):
    """The distance where a straight line between two places is t."""
    return low[0] + (high[0] - low[0]) * (width - low[1]) / max(high[1] - low[1], 1e-300)


def _profile(known, held, below, above, width):
    found = [(-distance, rise, point) for distance, rise, point in below.found[:0:-1]]
    found += [(0.0, 0.0, known.point), *above.found[1:]]
    theta = np.asarray(thetas_of(known.task.problem(), np.stack([point for _, _, point in found])))
    ends = [side.end(width) for side in (below, above)]
    low, high = (limit if end is None else float(held.natural(end)) for end, limit in
                 zip(ends, held.limits, strict=True))
    return Profile(held.name, float(held.natural(held.best)), low, high, tuple(end is not None for end in ends),
                   held.natural(held.best + np.array([x for x, _, _ in found])),
                   np.array([rise for _, rise, _ in found]), as_floats(stacks.laws(known.task, theta)))
