"""A question put to a table: which law, which rows, which constants are free, what is minimised.

`make_task` is the front door: it checks everything a user can get wrong, once. Below it nothing is checked.
"""

import dataclasses
import functools
import math

import jax
import numpy as np

from jaxscale import vertex
from jaxscale.batching import minimise
from jaxscale.errors import InputError, nearest
from jaxscale.laws.base import to_unconstrained
from jaxscale.minimise import takes_curvature
from jaxscale.objectives import Objective, huber
from jaxscale.powers import power_sum
from jaxscale.problem import Problem, Whitening, free_of
from jaxscale.runs import Runs
from jaxscale.solver import damped_newton
from jaxscale.starts import find_power_starts, find_starts, find_starts_each
from jaxscale.terms import scaling_constants


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A table, a law and what to minimise, laid out for the numerics."""

    Law: type
    runs: Runs
    objective: Objective
    held: dict  # constants that keep a value
    groups: tuple  # of tuples of names: the constants that each free coordinate stands for
    prior: dict  # name -> (mean, sd)
    bounds: dict  # name -> (lower, upper)
    row_weights: np.ndarray  # [n]
    names: dict  # input of the law -> column of the table
    optimizer: object
    max_steps: int
    start: object | None = None  # a law whose constants are one more start
    centring: bool = True
    phi: float | None = None  # the noise that priors are weighed against; None: priors are left out
    whitening: Whitening | None = None

    def problem(self, corner=None):
        """The question as numbers; |r| is rounded over `corner`, in units of the typical output; None: the last one."""
        return self._problem if corner is None else self._rounded(corner)

    @functools.cached_property
    def _problem(self):
        return self._rounded(vertex.CORNERS[-1])

    def _rounded(self, corner):
        unit = 1.0 if self.objective.log else float(np.median(self.observed[:len(self.runs)]))
        return self.laid_out(self.inputs, self.observed, self._centre, self._power_sum, corner * unit)

    def laid_out(self, inputs, observed, centre, power_sum, corner=None):
        """The question put to a table given by its arrays, or to several, with an axis of tables [tables, n]."""
        to = _transforms(self.Law)
        offset = np.array([_or_minus_infinity(to[name], self.held[name]) if name in self.held else 0.0
                           for name in self.Law.constants])
        ends = [[(max if end == 0 else min)(_or_minus_infinity(to[name], self.bounds[name][end]) for name in group)
                 for group in self.groups] for end in (0, 1)]
        objective = self.objective.smoothed(corner) if self.objective.name == "lad" else self.objective
        mean, precision = self.prior_terms(self.prior)
        return Problem(inputs, np.log(observed) if objective.log else observed, self.selected.astype(float), offset,
                       np.array(ends[0]), np.array(ends[1]), objective.scale, objective.delta, objective.overestimate,
                       mean, precision, centre, power_sum, self.Law, self._centred, objective.log, self.whitening)

    @functools.cached_property
    def selected(self):
        """Which free coordinate [p, q] each constant goes by."""
        return np.array([[name in group for group in self.groups] for name in self.Law.constants])

    @functools.cached_property
    def _centre(self):
        inputs, observed = self.centre_of(tuple(x[:len(self.runs)] for x in self.inputs),
                                          self.observed[:len(self.runs)], 1.0)
        return inputs, observed

    def centre_of(self, inputs, observed, counts):
        """Geometric means [..., 1] of the inputs and the output [..., n], rows counted `counts` times; of ratios and
        signed inputs, which may be 0, the plain ones."""
        counts = counts * np.ones_like(observed)

        def mean(x, to, back):
            return back(np.average(to(x), axis=-1, weights=counts, keepdims=True))

        inputs = (mean(x, np.asarray, np.asarray) if name in (*self.Law.ratios, *self.Law.signed)
                  else mean(x, np.log, np.exp)
                  for name, x in zip(self.Law.inputs, inputs, strict=True))
        return tuple(inputs), mean(observed, np.log, np.exp)

    @functools.cached_property
    def _power_sum(self):
        inputs, observed = self._centre
        found = self.power_sum_of(tuple(x[None] for x in self.inputs), self.observed[None],
                                  (tuple(x[None] for x in inputs), observed[None]))
        return jax.tree.map(lambda x: x[0], found)

    def power_sum_of(self, inputs, observed, centre):
        """The law at tables [tables, n] as a sum of powers, or None."""
        with jax.enable_x64(True):  # in 32 bits no law looks like a sum of powers, and the answer is kept
            return power_sum(self.Law, self._centred, self.held, observed, inputs, centre)

    @functools.cached_property
    def _centred(self):
        """The constants whose coordinate is their term's share: free, alone, without bound or prior of their own."""
        scaling = scaling_constants(self.Law, frozenset()) if self.centring else ()
        return tuple(name for name in scaling if (name,) in self.groups and self.Law.constants[name].positive
                     and self.bounds[name] == (0.0, math.inf) and name not in self.prior)

    def prior_terms(self, prior, xp=np):
        """Means and precisions [q] of the free coordinates, in units of the objective; `xp`: jax.numpy if traced."""
        mean, precision = [0.0] * len(self.groups), [0.0] * len(self.groups)
        for i, group in enumerate(self.groups):
            known = [(xp.log(prior[name][0]) if self.Law.constants[name].positive else prior[name][0],
                      prior[name][1] ** -2) for name in group if name in prior]
            if known and self.phi is not None:
                total = sum(weight for _, weight in known)
                mean[i], precision[i] = sum(value * weight for value, weight in known) / total, self.phi * total
        return xp.stack(mean), xp.stack(precision)

    # The numerics see every table at one of a few lengths, so that tables of like size share what is compiled; copies
    # of the first row, of weight zero, fill it up.

    @functools.cached_property
    def inputs(self):
        return tuple(self._filled(self.runs.columns[self.names[name]]) for name in self.Law.inputs)

    @functools.cached_property
    def observed(self):
        return self._filled(self.runs.columns[self.Law.output])

    @functools.cached_property
    def run(self):
        return self._filled(self.runs.run)

    @functools.cached_property
    def weights(self):
        weights = self._filled(self.row_weights)
        weights[len(self.row_weights):] = 0.0
        return weights

    @staticmethod
    def _filled(column):
        return np.concatenate([column, np.repeat(column[:1], filled(len(column)) - len(column))])

    @property
    def informed(self):
        """1.0 for each free coordinate that a prior says something of, else 0.0: [q]."""
        return np.array([float(any(name in self.prior for name in group)) for group in self.groups])

    def asked(self):
        """The question as plain data, by which `cards.verify` asks it again: rows by number, weights where not all 1.

        Weights of a table whose runs each have one are listed run by run.
        """
        runs, weights = dataclasses.replace(self.runs, weights=self.row_weights), None
        if np.any(self.row_weights != 1):
            first = np.unique(runs.run, return_index=True)[1]
            by_run = np.array_equal(self.row_weights[first][runs.run], self.row_weights)
            weights = {"runs" if by_run else "rows": self.row_weights[first if by_run else slice(None)].tolist()}
        ends = np.flatnonzero(np.diff(runs.row) != 1)
        own = {name: (about.lower, about.upper) for name, about in self.Law.constants.items()}
        return {
            "rows": [[int(runs.row[i]), int(runs.row[j])] for i, j in zip(
                [0, *(ends + 1)], [*ends, len(runs) - 1], strict=True)],
            "digest": runs.digest,
            "columns": {name: column for name, column in runs.names.items() if name != "run"},
            "objective": dataclasses.asdict(self.objective) | {"delta": None if math.isinf(self.objective.delta) else
                                                               self.objective.delta},
            "fix": self.held,
            "tie": [list(group) for group in self.groups if len(group) > 1],
            "prior": {name: list(pair) for name, pair in self.prior.items()},
            "bounds": {name: list(pair) for name, pair in self.bounds.items() if pair != own[name]},
            "x": self.names.get("x"),
            "weights": weights,
            "trajectory": self.whitening is not None,
        }

    @property
    def patience(self):
        """Steps that the default solver may take: thousands along a curved valley, fewer where each sweep is long."""
        return int(np.clip(2e6 / len(self.observed), 300, 3000))

    @property
    def run_count(self):
        return int(self.run.max()) + 1

    def starts(self, count):
        """Free coordinates [count, q] of the best places of the global search."""
        problem = self.problem()
        if problem.power_sum is None:
            return self.starts_of(problem, self.inputs, self.observed, self.weights, count)
        found = find_power_starts(problem.repeated(1), self.weights[None], self.held, count)[0]
        return found[np.sort(np.unique(found, axis=0, return_index=True)[1])]  # a small grid has fewer

    def starts_of(self, problem, inputs, observed, weights, count):
        """The same of another table, given by its arrays [n]."""
        return _within(problem, find_starts(self.Law, self.objective, inputs, observed, weights, self.held, count))

    def point_of(self, law):
        """Free coordinates [1, q] of a law's constants."""
        return _within(self.problem(), to_unconstrained(law)[None])

    def starts_each(self, weights, count):
        """Free coordinates [draws, count, q] of the best places for many weightings [draws, n] of the rows."""
        theta = find_starts_each(self.Law, self.inputs, self.observed, weights, self.held, count)
        return _within(self.problem(), theta.reshape(-1, theta.shape[-1])).reshape(*theta.shape[:2], -1)

    def solve(self, starts, own=None, of=None, corners=vertex.CORNERS, problem=None, progress=None, patience=None):
        """`Ends` from every start; absolute deviations through shrinking corners. `own`, `of` as `minimise` has them.

        problem: what all fits share, if not this table. patience: steps of the default solver, if not the usual.
        """
        optimizer = damped_newton() if self.optimizer is None else self.optimizer
        how = {"second_order": self.optimizer is None or takes_curvature(optimizer),
               "max_steps": (patience or self.patience) if self.optimizer is None else self.max_steps}
        if own is None:
            own, of = {"weights": self.weights[None]}, np.zeros(len(starts), int)
        if self.objective.name != "lad":
            problem = self.problem() if problem is None else problem
            return minimise(problem, optimizer, starts, own, of, **how, progress=progress)
        for corner in corners:
            last = progress if corner == corners[-1] else None
            ends = minimise(self.problem(corner), optimizer, starts, own, of, **how, progress=last)
            starts = ends.points
        return ends


def _within(problem, theta):
    """Free coordinates of unconstrained constants, inside the bounds."""
    return np.clip(np.asarray(free_of(problem, theta)), problem.lower, problem.upper)


def filled(rows):
    """The next of the lengths 16, 32, 64, 128, 256, 384, 512, 768, 1024, from there in eighths of a power of two."""
    power = 1 << max(4, (rows - 1).bit_length())
    step = power // (1 if rows <= 256 else 4 if rows <= 1024 else 8)
    return -(-rows // step) * step


def _transforms(Law):
    return {name: math.log if about.positive else float for name, about in Law.constants.items()}


def _or_minus_infinity(transform, value):
    return -math.inf if transform is math.log and value == 0 else math.inf if value == math.inf else transform(value)


def make_task(Law, runs, *, objective=None, fix=None, free=(), tie=(), prior=None, bounds=None, weights=None, x=None,
              optimizer=None, max_steps=2000, start=None, drop_bad=False):
    """Check the question against the table: the arguments of `fit` -> `Task`. Raises InputError."""
    Law, fix, prior, bounds = law_class(Law), dict(fix or {}), dict(prior or {}), dict(bounds or {})
    free = (free,) if isinstance(free, str) else tuple(free)
    tie = (tie,) if tie and all(isinstance(name, str) for name in tie) else tie  # one group, without the outer brackets
    tie = tuple(tuple(group) for group in tie)
    about = Law.constants
    for where, names in (("fix", fix), ("free", free), ("tie", sum(tie, ())), ("prior", prior), ("bounds", bounds)):
        for name in names:
            if name not in about:
                raise InputError(f"{where}= names the constant {name!r}, but {Law.__name__} has {', '.join(about)}"
                                 f"{nearest(name, about) or '.'}")
    for name, value in fix.items():
        low, high = about[name].lower, about[name].upper
        if not (_number(value) and low <= value <= high and math.isfinite(value)):
            raise InputError(f"fix= must hold {name} at a number between {low:g} and {high:g}, not at {value!r}.")
    held = {name: c.default for name, c in about.items() if c.default is not None and name not in free} | fix
    for names in (free, prior, bounds, sum(tie, ())):
        for name in names:
            if name in held:
                why = "is in fix= too" if name in fix else f"is held at its default {held[name]:g}"
                raise InputError(f"{name} was to be fitted, but it {why}: add it to free= or leave it out of fix=.")
    for where, pairs in (("prior", prior), ("bounds", bounds)):
        for name, pair in pairs.items():
            if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(map(_number, pair))):
                raise InputError(f"{where}= must give two numbers for {name}, not {pair!r}: write "
                                 f"{where}={{{name!r}: (0.3, 0.4)}}, say.")
    for name, (mean, sd) in prior.items():
        if not (math.isfinite(mean) and 0 < sd < math.inf and (mean > 0 or not about[name].positive)):
            raise InputError(f"prior= wants (mean, standard deviation) of {name}, the second positive"
                             f"{' and the first too' if about[name].positive else ''}, not {(mean, sd)}.")
    ends = {name: (max(c.lower, bounds.get(name, (c.lower, 0))[0]), min(c.upper, bounds.get(name, (0, c.upper))[1]))
            for name, c in about.items()}
    for name, (low, high) in ends.items():
        if not low < high:
            raise InputError(f"bounds= must leave {name} room, lower below upper, but leave {low:g} to {high:g}.")
    groups = [list(group) for group in tie]
    groups += [[name] for name in about if name not in held and not any(name in group for group in tie)]
    if not groups:
        raise InputError(f"every constant of {Law.__name__} is held: leave at least one out of fix=.")
    if len(sum(groups, [])) != len(set(sum(groups, []))):
        raise InputError(f"tie= names a constant twice: {tie}.")
    for group in tie:
        if len({about[name].positive for name in group}) > 1:
            raise InputError(f"tie= can join constants of one sign only: {', '.join(group)} differ.")
        if not max(ends[name][0] for name in group) < min(ends[name][1] for name in group):
            raise InputError(f"bounds= must leave tied constants a value in common, but leave {', '.join(group)} none: "
                             "widen them, or tie fewer.")
    if objective is not None and not isinstance(objective, Objective):
        raise InputError(f"objective= must be made by huber, lad or squares, not {objective!r}: write "
                         "objective=jaxscale.huber(1e-3), say.")
    if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise InputError(f"optimizer= must be an optax.GradientTransformation, not {optimizer!r}: write "
                         "optimizer=optax.adam(1e-2), say.")
    if start is not None and not (type(start) is Law and all(_number(getattr(start, name)) for name in about)):
        raise InputError(f"start= must be a {Law.__name__} with a number for each constant, not {start!r}.")
    if x is None and Law.inputs == ("x",) and not (isinstance(runs, Runs) and "x" in runs.columns):
        raise InputError(f"{Law.__name__} reads one column of your choice: name it with x=, as in x='N' (--x N).")
    if x is not None and "x" not in Law.inputs:
        raise InputError(f"x= names the column of a law of one x, and {Law.__name__} reads {', '.join(Law.inputs)}: "
                         f"leave x= (--x) out, or name its columns with columns= (--column).")
    names = {name: x if x is not None and name == "x" else name for name in Law.inputs}
    if not isinstance(runs, Runs):
        from jaxscale.tables import read_runs

        runs = read_runs(runs)
    selected = runs.select(tuple(names.values()), Law.output, drop_bad=drop_bad, ratios=Law.ratios,
                           signed=Law.signed)
    if isinstance(weights, str):
        if weights != "run":
            raise InputError(f"weights= must be one number a row or 'run', not {weights!r}.")
        selected, weights = selected.per_run(), None
    total = selected.weights if weights is None else selected.weights * checked_weights(weights, runs, selected)
    if np.sum(total > 0) < len(groups):
        raise InputError(f"{Law.__name__} has {len(groups)} free constants, which need at least as many rows, but the "
                         f"table has {int(np.sum(total > 0))}: add runs, or hold constants with fix= (--fix).")
    return Task(Law, selected, huber() if objective is None else objective, held, tuple(map(tuple, groups)), prior,
                ends, total, names, optimizer, max_steps, start)


def law_class(Law):
    """A law class from itself or its name in the catalogue. Raises InputError."""
    from jaxscale.laws import catalogue

    if isinstance(Law, str):
        if Law not in catalogue:
            raise InputError(f"a law's name must be one of {', '.join(catalogue)}, not {Law!r}"
                             f"{nearest(Law, catalogue) or '.'}")
        return catalogue[Law]
    if isinstance(Law, type) and hasattr(Law, "constants"):
        return Law
    raise InputError(f"a law must be a class made with @jaxscale.law or a name in laws.catalogue, not {Law!r}.")


def _number(value):
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and not math.isnan(value)


def checked_weights(weights, runs, selected):
    """Weights [.., rows] of the selected rows, from one a row of `runs` or of `selected`. Raises InputError."""
    try:
        weights = np.asarray(weights, np.float64)
    except (TypeError, ValueError):
        raise InputError("weights= must be one number a row or 'run', not something else: pass an array.") from None
    if weights.shape[-1:] == (len(runs),) and len(runs) != len(selected):
        weights = weights[..., np.isin(runs.row, selected.row)]
    if weights.ndim > 2 or weights.shape[-1:] != (len(selected),) or not weights.size or not np.all(
            np.isfinite(weights) & (weights >= 0)):
        raise InputError(f"weights= must be one finite number >= 0 for each of the {len(runs)} rows, not an array of "
                         f"shape {weights.shape} with smallest {weights.min() if weights.size else None}.")
    return weights
