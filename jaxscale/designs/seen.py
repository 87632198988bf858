"""A table as a law sees it: its levels, its ray, and the quantities that constants are wanted for."""

import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.designs.fisher import Known, Wanted
from jaxscale.errors import InputError
from jaxscale.laws.base import from_unconstrained
from jaxscale.planning import check_compute, plan
from jaxscale.prediction import law_inputs
from jaxscale.problem import rows
from jaxscale.runs import Runs
from jaxscale.task import Task
from jaxscale.terms import scaling_constants

BEYOND = 10.0  # times the largest compute of the table, where no target is given
OFF_RAY = 4.0  # times the table's tokens per parameter
SAME = 0.01  # of the logarithm: within it two values are one level
STEP = 1e-3  # of an unconstrained constant, in the differences that plans are taken by
LEVELS = 5  # of each input, of the runs that are looked at as worth adding


class Span(NamedTuple):
    """The levels of a column."""

    levels: int
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A table, a law, and how rows scatter about it."""

    task: Task
    law: object
    scatter: float

    @property
    def names(self):
        return tuple(" = ".join(group) for group in self.task.groups)

    @functools.cached_property
    def columns(self):
        """The inputs of the rows that count, by their names in the law."""
        return {name: x[self.task.weights > 0] for name, x in zip(self.task.Law.inputs, self.task.inputs, strict=True)}

    @functools.cached_property
    def point(self):
        return self.task.point_of(self.law)[0]

    def slopes(self):
        """[n, q], in units of the scatter, of the rows and of what priors say."""
        weights = self.task.weights > 0 if self.task.whitening is not None else self.task.weights
        jacobian = np.asarray(rows(self.task.problem(), self.point).jacobian) * np.sqrt(weights)[:, None]
        known = [self.task.selected[list(self.task.Law.constants).index(name)] / sd
                 for name, (_, sd) in self.task.prior.items()]
        return np.vstack([jacobian / self.scatter, *known])

    @functools.cached_property
    def scaling(self):
        """The constants that scale a term, but for a floor."""
        return {*scaling_constants(self.task.Law, frozenset())} - {"E"}

    def losses(self, points):
        """Logs of the law's output [k] at points, dicts of inputs, with their slopes [k, q]; and at the grid's."""
        grid = self.grid or {name: [] for name in self.columns}
        inputs = tuple(np.array([*(point[name] for point in points), *grid[name]]) for name in self.columns)
        theta, moves = np.asarray(self.task.problem().theta(self.point)), self.task.selected.astype(float)
        logs, slopes = map(np.asarray, _log_outputs(self.task.Law, theta, inputs))
        slopes, count = np.where(moves.any(axis=1), slopes, 0.0) @ moves, len(points)
        return (logs[:count], slopes[:count]), (logs[count:], slopes[count:])

    @functools.cached_property
    def grid(self):
        """Runs within the table's own ranges, arrays by input; None for a law of a mix, or of many inputs."""
        if self.task.Law.ratios or len(self.columns) > 3:
            return None
        levels = [np.geomspace(x.min(), x.max(), LEVELS) if np.all(x > 0) else np.linspace(x.min(), x.max(), LEVELS)
                  for x in self.columns.values()]
        return dict(zip(self.columns, (x.ravel() for x in np.meshgrid(*levels)), strict=True))

    def constants(self, cover):
        found = {}
        for i, (name, group) in enumerate(zip(self.names, self.task.groups, strict=True)):
            value = getattr(self.law, group[0])
            per = 1.0 if self.task.Law.constants[group[0]].positive else abs(value) or 1e-300
            kind = "scale" if self.scaling & {*group} else "constant"
            found[name] = Known(value, cover.error(np.eye(len(self.names))[i]) / per, cover.alone(i) / per, kind)
        return found

    def spans(self):
        """Of the inputs, and of what they and the table's other columns make of D, C and D/N."""
        columns = {self.task.names[name]: x for name, x in self.columns.items()}
        used = self.task.row_weights > 0
        known = Runs.from_columns({**self.task.runs.columns, **columns} if used.all() else columns)
        for name in ("D", "C", "M"):
            if name not in columns and known.has(name):
                columns[name] = known.select((name,), name).columns[name]
        return {name: Span(_levels(x), float(x.min()), float(x.max())) for name, x in columns.items()}

    def correlations(self):
        """Of the logarithms of inputs, in pairs of those that vary."""
        plain = {*self.task.Law.ratios, *self.task.Law.signed}
        logs = {name: np.log(x) for name, x in self.columns.items() if name not in plain and _levels(x) > 1}
        return {(a, b): float(np.corrcoef(logs[a], logs[b])[0, 1]) for a, b in itertools.combinations(logs, 2)}

    @functools.cached_property
    def middle(self):
        """The inputs amid the table, numbers by name."""
        plain = {*self.task.Law.ratios, *self.task.Law.signed}
        return {name: float(np.mean(x) if name in plain else np.exp(np.mean(np.log(x))))
                for name, x in self.columns.items()}

    @functools.cached_property
    def ray(self):
        """(N, D, S or M; its geometric mean a parameter at the ends of runs; the largest compute); None without."""
        second = next((name for name in "DSM" if name in self.columns), None)
        if second is None or "N" not in self.columns:
            return None
        N, x = self.columns["N"], self.columns[second] * (self.columns["N"] if second == "M" else 1.0)
        run = self.task.run[self.task.weights > 0]
        last = np.zeros(run.max() + 1)
        np.maximum.at(last, run, x)
        ends = x == last[run]
        return second, float(np.exp(np.mean(np.log(x[ends] / N[ends])))), float(self.spent(self.columns, second).max())

    def spent(self, columns, second=None):
        """6 N D of inputs by name; of a law of N and S without a batch size 6 N S."""
        second = second or self.ray[0]
        batch = columns.get("B", 1.0) if second == "S" else columns["N"] if second == "M" else 1.0
        return 6 * columns["N"] * columns[second] * batch

    def along(self, compute, spread=1.0):
        """Inputs of the run of that compute on the ray, of `spread` times its tokens (or steps) a parameter."""
        second, ratio, _ = self.ray
        N = math.sqrt(compute / (6 * ratio * spread * (self.middle.get("B", 1.0) if second == "S" else 1.0)))
        return self.middle | {"N": N, second: ratio * spread * (1.0 if second == "M" else N)}

    def wanted(self, compute, at):
        """The quantities that constants are wanted for; and what `losses` says of the grid."""
        points = {"loss amid the table": self.middle}
        counts = self.ray is not None and (self.ray[0] in "DM" or "B" in self.columns)
        if compute is not None and not counts:
            raise InputError(f"compute= looks ahead along N and D, and {self.task.Law.__name__} reads "
                             f"{', '.join(self.task.Law.inputs)}: leave it out, or ask for a point with at=.")
        if self.ray is not None:
            target = BEYOND * self.ray[2] if compute is None else float(check_compute(compute))
            what = f"{target / self.ray[2]:.3g} times the largest compute" if counts else f"{BEYOND:g} times N S"
            points[f"loss at {what}, on the ray"] = self.along(target)
            points[f"loss there, {OFF_RAY:g} times the {'steps' if not counts else 'tokens'} a parameter"] = (
                self.along(target, OFF_RAY))
        else:
            plain = {*self.task.Law.ratios, *self.task.Law.signed}
            points[f"loss {BEYOND:g} times beyond the table"] = self.middle | {
                name: BEYOND * float(x.max()) for name, x in self.columns.items() if name not in plain}
        if at is not None:
            names = self.task.names
            given, _ = law_inputs(self.law, {names.get(name, name): value for name, value in at.items()}, names)
            said = ", ".join(f"{name} = {value:g}" for name, value in at.items())
            points[f"loss at {said}"] = {name: float(x[0]) for name, x in given.items()}
        (logs, slopes), _ = known = self.losses([*points.values()])
        output = self.task.Law.output
        found = [Wanted(name if output == "loss" else name.replace("loss", output), math.exp(log), slope, "loss")
                 for name, log, slope in zip(points, logs, slopes, strict=True)]
        return found + (self.plans(self.ray[2], target) if counts else []), known[1]

    def plans(self, largest, target):
        """The slope of N*(C) up to the target compute, and N* there, by differences of plans."""
        moves, count = self.task.selected.astype(float), len(self.names)
        steps = STEP * np.vstack([np.zeros(count), np.eye(count), -np.eye(count)])
        theta = np.asarray(self.task.problem().theta(self.point)) + steps @ moves.T
        laws = from_unconstrained(self.task.Law, theta)
        laws = dataclasses.replace(laws, **{name: np.full(len(theta), value) for name, value in self.task.held.items()})
        unique = {name: float(x.max()) for name, x in self.columns.items() if name == "unique_tokens"}
        start = largest if target > 1.01 * largest else target / BEYOND
        try:
            logs = np.log(plan(laws, compute=np.array([start, target]), **unique).N)  # [laws, 2]
        except InputError:
            logs = np.full((len(theta), 2), np.nan)
        slopes = (logs[1:1 + count] - logs[1 + count:]) / (2 * STEP)
        span = math.log(target / start)
        return [Wanted("slope of N*(C)", float(logs[0, 1] - logs[0, 0]) / span,
                        (slopes[:, 1] - slopes[:, 0]) / span, "slope"),
                Wanted(f"N*({target:.3g})", float(np.exp(logs[0, 1])), slopes[:, 1], "constant")]


@functools.partial(jax.jit, static_argnums=0)
def _log_outputs(Law, theta, inputs):
    """Logs of a law's output [k] at unconstrained constants [p] and inputs [k], and their slopes [k, p]."""
    def of(theta):
        return jnp.log(jnp.broadcast_to(from_unconstrained(Law, theta)(*inputs), inputs[0].shape))

    return of(theta), jax.jacfwd(of)(theta)


def _levels(x):
    return len(np.unique(np.round(np.log(x) / SAME))) if np.all(x > 0) else len(np.unique(x))
