"""One law fitted many times: to each group of a table, or to one table under many weightings of its rows."""

import dataclasses
import functools

import jax
import numpy as np

from jaxscale import stacks, uncertainty
from jaxscale.certificate import check_identifiable
from jaxscale.errors import FitError, InputError
from jaxscale.fitting import at_once, check_errors, conclude, fit_task, wants_bootstrap, why_unknown
from jaxscale.laws.base import as_floats
from jaxscale.problem import thetas_of
from jaxscale.runs import Runs
from jaxscale.stacks import Stack
from jaxscale.task import checked_weights, filled, law_class, make_task

TABLES = 128  # stacked at once, always, so that one shape is compiled for each length
PATIENCE = 300  # steps of a draw
ROWS = 1 << 18  # stacked at once, at most, each some 50 numbers on its way: 100 MB


@dataclasses.dataclass(frozen=True, eq=False)
class GroupFits:
    """Many fits of a law, arrays with one axis of groups, NaN where a group has no fit.

    `keys` are dicts of the groups' values. `law` and `standard_errors` are laws whose fields carry the groups; `points`
    are the rows fitted, `agreeing` the starts that reached the optimum. `reasons` says of each group why it has no fit,
    or one that has not converged, else None. `fits[i]` is group i's `Fit`, made when it is looked at, or None.
    """

    Law: type
    keys: tuple[dict, ...]
    law: object
    standard_errors: object
    objective: np.ndarray
    converged: np.ndarray
    points: np.ndarray
    agreeing: np.ndarray
    reasons: tuple[str | None, ...]
    fits: "Fits"

    def __repr__(self):
        return (f"GroupFits of {self.Law.__name__}: {len(self)} groups, {self.converged.sum()} converged; to_frame() "
                "is the table")

    def __len__(self):
        return len(self.keys)

    @property
    def confirmed(self):
        """The share of fitted groups whose optimum was reached from two starts or more."""
        return float(np.mean(self.agreeing[self.points > 0] > 1)) if self.points.any() else np.nan

    def refuse_all(self):
        """Raise InputError where no group has a fit, all for one reason: that is the question's fault."""
        if not self.points.any() and len({*self.reasons}) == 1:
            raise InputError(self.reasons[0])

    def to_frame(self, errors=False):
        """A DataFrame, one row a group: its values, the constants, objective, converged, points and reason.

        With `errors` the constants' standard errors too, as alpha_error, and how many starts agree. A group's column
        that is named as a constant, B of Chinchilla's law say, is called group_B.
        """
        from jaxscale.tables import frame

        found = {name: getattr(self.law, name) for name in self.Law.constants}
        found |= {f"{name}_error": getattr(self.standard_errors, name) for name in self.Law.constants} if errors else {}
        found |= {"objective": self.objective, "converged": self.converged, "points": self.points,
                  **({"agreeing": self.agreeing} if errors else {}), "reason": np.array(self.reasons, object)}
        return frame({f"group_{name}" if name in found else name: [key[name] for key in self.keys]
                      for name in self.keys[0]} | found)


class Fits:
    """The groups' fits, each made when it is looked at."""

    def __init__(self, make, count):
        self._make, self._places = functools.cache(make), range(count)

    def __len__(self):
        return len(self._places)

    def __getitem__(self, i):
        places = self._places[i]
        return [self._make(place) for place in places] if isinstance(places, range) else self._make(places)


def fit_groups(Law, table, *, by, progress=None, errors="sandwich", polish=True, draws=500, seed=0, **question):
    """Fit `Law` to each group of a table -> `GroupFits`; a group that cannot be fitted is a row with a reason.

    The groups are fitted side by side, each with a global search of its own; those of one length, filled up to the next
    of 16, 32, 64, 128, 256, 384, 512, ..., share what is compiled. At most 2^18 rows are on their way at once. Absolute
    deviations, and fits by an optimiser of optax, are fitted one after the other.

    Args:
      table: `Runs`, a DataFrame or a path; `by`: the names of the columns that make the groups.
      errors: as in `fit`; the sandwich here, as the bootstrap of many groups takes long.
      question: what `fit` takes: objective, fix, free, tie, prior, bounds, drop_bad, ...

    Raises:
      InputError: the table or the question is wrong for every group alike.

    Example:
      >>> many = fit_groups(laws.Chinchilla, table, by=["family"])  # doctest: +SKIP
    """
    Law = law_class(Law)
    if not isinstance(table, Runs):
        from jaxscale.tables import read_runs

        table = read_runs(table)
    if not isinstance(question.get("weights"), str | None):  # one a row of the whole table
        weights = checked_weights(question.pop("weights"), table, table)
        table = dataclasses.replace(table, weights=table.weights * weights)
    many = fit_every_group(Law, table, by, progress, errors, polish, draws, seed, **question)
    many.refuse_all()
    return many


def fit_every_group(Law, runs, by, progress=None, errors="sandwich", polish=True, draws=500, seed=0, **question):
    """`fit_groups`, also where no group can be fitted."""
    check_errors(errors, draws)
    keys, places = runs.grouped(by)
    batch = _Batch(Law, len(keys), lambda i: make_task(Law, runs.take(places[i]), **question), errors, polish, draws,
                   seed, progress)
    with jax.enable_x64(True):
        _fit_tables(batch, runs, places, question)
    return batch.result(keys)


def fit_weightings(task, weights, errors, polish, draws, seed, progress):
    """Fit one table under each row of `weights` [fits, n], a factor of the task's own -> `GroupFits`."""
    total = task.row_weights * weights
    batch = _Batch(task.Law, len(weights), lambda i: dataclasses.replace(task, row_weights=total[i]), errors, polish,
                   draws, seed, progress)
    filling = np.zeros((1, len(task.weights) - total.shape[1]))
    places = min(TABLES, max(1, ROWS // len(task.weights)))
    with jax.enable_x64(True):
        few = np.sum(total > 0, axis=1) < len(task.groups)
        for i in np.flatnonzero(few):
            batch.refuse(i, f"{task.Law.__name__} has {len(task.groups)} free constants, which need at least as many "
                            f"rows, but the weights leave {np.sum(total[i] > 0)}")
        for block in _blocks(np.flatnonzero(~few), places):
            rows = np.concatenate([total[block], np.repeat(filling, len(block), axis=0)], axis=1)
            batch.fit(Stack.of_weights(task, rows), block, np.full(len(block), total.shape[1]))
    return batch.result(tuple({"weights": i} for i in range(len(weights))))


def resampled(task, weights, points, draws, seed=0, progress=None):
    """Fits of one table under each of `weights` [fits, n] to draws of its runs -> a law with axes [fits, draws].

    Each starts at its own fit's optimum, of `points` [fits, q], as in `Fit.bootstrap(starts="warm")`; NaN where
    it has not ended after `PATIENCE` steps, as some draws leave a law a valley without an end. Of each weighting the
    runs are drawn that it has.
    """
    counts = np.zeros((len(weights), draws, task.run_count))
    for i, row in enumerate(weights):
        present = np.unique(task.runs.run[row > 0])
        counts[i][:, present] = uncertainty.resampled_counts(len(present), draws, seed)
    rows = np.pad(weights, ((0, 0), (0, len(task.weights) - weights.shape[1])))
    fit, counts = np.repeat(np.arange(len(weights)), draws), counts.reshape(-1, task.run_count)
    found = np.full((len(fit), points.shape[1]), np.nan)
    with jax.enable_x64(True):
        for block in _blocks(np.arange(len(fit)), min(len(fit), at_once(task))):
            count = len(np.unique(block))
            stack = Stack.of_weights(task, rows[fit[block]] * counts[block][:, task.run])
            ends = stack.follow(np.arange(count), points[fit[block[:count]], None], progress, PATIENCE)
            ended = np.isfinite(ends.values[:, 0])
            found[block[:count][ended]] = ends.points[ended, 0]
        theta = np.asarray(thetas_of(task.problem(), found)).reshape(len(weights), draws, -1)
    with np.errstate(over="ignore"):  # of a constant that ran off
        return as_floats(stacks.laws(task, theta))


def _fit_tables(batch, table, places, question):
    """Lay the tables out, those of one length together, and fit them."""
    Law = batch.Law
    names = [question.get("x") or name if name == "x" else name for name in Law.inputs]
    plain = (table.plain(names, Law.output) if question.get("weights") is None and not (Law.ratios or Law.signed)
             else np.zeros(len(table), bool))
    first, looked, lengths = None, {}, {}
    for i, rows in enumerate(places):
        if first is None or not plain[rows].all() or np.count_nonzero(table.weights[rows]) < len(first.groups):
            try:  # the front door of a single fit: it derives columns, drops rows, or says what is wrong
                looked[i] = batch.task(i)
            except InputError as error:
                batch.refuse(i, str(error))
                continue
            first = first or looked[i]
        lengths.setdefault(filled(len(looked[i].runs) if i in looked else len(rows)), []).append(i)

    def columns(i):
        """Inputs, output, run codes and weights of a group's rows."""
        runs, rows = (looked[i].runs, slice(None)) if i in looked else (table, places[i])
        weights = looked[i].row_weights if i in looked else table.weights[rows]
        return *(runs.columns[name][rows] for name in (*names, Law.output)), runs.run[rows], weights

    for length, members in lengths.items():
        for block in _blocks(np.array(members), min(TABLES, max(1, ROWS // length))):
            if first.objective.name == "lad" or first.optimizer is not None:
                batch.fit_alone(block)
                continue
            whole, rows = np.empty((len(names) + 3, len(block), length)), np.zeros(len(block), int)
            for place, i in enumerate(block):
                given = np.array(columns(i))
                rows[place] = given.shape[1]
                whole[:, place, :rows[place]], whole[:, place, rows[place]:] = given, given[:, :1]
                whole[-1, place, rows[place]:] = 0.0
            *inputs, observed, run, weights = whole
            batch.fit(Stack.of_tables(first, tuple(inputs), observed, weights, _codes(run)), block, rows)


def _codes(run):
    """Run ids [tables, n] as codes 0, 1, ... within each table."""
    order = np.argsort(run, axis=1)
    ranked, code = np.take_along_axis(run, order, axis=1), np.empty(run.shape, int)
    np.put_along_axis(code, order, np.cumsum(np.diff(ranked, axis=1, prepend=ranked[:, :1]) > 0, axis=1), axis=1)
    return code


def _blocks(members, most):
    """Members in blocks of one size, the last one filled up with its last member."""
    return [members[np.minimum(np.arange(i, i + most), len(members) - 1)] for i in range(0, len(members), most)]


class _Batch:
    """The arrays of `GroupFits` as they are filled."""

    def __init__(self, Law, count, task, errors, polish, draws, seed, progress):
        self.Law, self.task, self.progress = Law, task, progress or (lambda _: None)
        self.how = errors, draws, seed, None
        self.polish, self.reasons, self.whole = polish, [None] * count, {}
        self.constants, self.errors = np.full((2, count, len(Law.constants)), np.nan)
        self.objective, self.least, self.phi = np.full((3, count), np.nan)
        self.converged, (self.points, self.agreeing, self.tried) = np.zeros(count, bool), np.zeros((3, count), int)
        self.places = [None] * count  # free coordinates of the optima

    def refuse(self, i, why):
        self.reasons[i] = why
        self.progress(1)

    def fit_alone(self, members):
        """By a loop of single fits."""
        for i in dict.fromkeys(members.tolist()):
            try:
                fit = self.whole[i] = fit_task(self.task(i), self.polish, *self.how)
            except (InputError, FitError) as error:
                self.refuse(i, str(error))
                continue
            for into, law in ((self.constants, fit.law), (self.errors, fit.standard_errors)):
                into[i] = [getattr(law, name) for name in self.Law.constants]
            self.objective[i], self.converged[i], self.points[i] = fit.objective, fit.converged, fit.facts["points"]
            self.agreeing[i], self.reasons[i] = fit.certificate.agreeing, None if fit.converged else "not converged"
            self.progress(1)

    def fit(self, stack, members, rows):
        """A stack of tables of so many `rows` [fits], whose last fits may repeat the last member."""
        count = len(dict.fromkeys(members.tolist()))
        solved = stacks.solve(stack, count)
        if stack.task.prior:
            stack, solved = stacks.weigh_priors(stack, solved, count)
        found = stacks.conclude(stack, solved.best.points, solved.values, solved.best,
                                jackknife=self.how[0] == "jackknife")
        alone = solved.plain | ~np.isfinite(solved.values.min(axis=1))
        for place, i in enumerate(members[:count]):
            if solved.flat[place]:
                try:
                    check_identifiable(self.task(i), solved.jacobian[place])
                except FitError as error:
                    self.refuse(i, str(error))
                continue
            if alone[place]:
                self.fit_alone(members[place:place + 1])
                continue
            self.constants[i] = [getattr(found.law, name)[place] for name in self.Law.constants]
            self.objective[i], self.least[i] = found.objective[place], solved.values[place].min()
            self.converged[i], self.points[i] = found.judged.converged[place], rows[place]
            self.agreeing[i], self.tried[i] = found.judged.agreeing[place], solved.tried[place]
            self.places[i], self.phi[i] = solved.best.points[place], stack.phi[place]
            self.reasons[i] = None if self.converged[i] else "not converged"
            errors = self.how[0]
            if wants_bootstrap(stack.task, errors, found.outside[place]):
                fit = self.make(i)
                self.errors[i] = [getattr(fit.standard_errors, name) for name in self.Law.constants]
            elif errors is not None and not why_unknown(stack.task, stack.weights[place], stack.run[place]):
                self.errors[i] = found.standard_errors[place]
            self.progress(1)

    def make(self, i):
        """Group i's `Fit`."""
        if i in self.whole or self.places[i] is None:
            return self.whole.get(i)
        task = dataclasses.replace(self.task(i), phi=None if np.isnan(self.phi[i]) else float(self.phi[i]))
        values = np.where(np.arange(self.tried[i]) < self.agreeing[i], self.least[i], np.inf)
        with jax.enable_x64(True):
            fit = conclude(task, self.places[i], values, int(self.tried[i]), None, *self.how)
        return dataclasses.replace(fit, law=self.Law(*map(float, self.constants[i])),
                                   objective=float(self.objective[i]), converged=bool(self.converged[i]))

    def result(self, keys):
        law, errors = (self.Law(*values.T) for values in (self.constants, self.errors))
        return GroupFits(self.Law, tuple(keys), law, errors, self.objective, self.converged, self.points, self.agreeing,
                         tuple(self.reasons), Fits(self.make, len(keys)))
