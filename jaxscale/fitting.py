"""Fit a law to a table of runs: one call, a global search, a certificate, and errors that respect the runs."""

import dataclasses
import math

import jax
import numpy as np

from jaxscale import stacks, uncertainty, vertex
from jaxscale.certificate import Certificate, agreeing, check_identifiable
from jaxscale.errors import FitError, InputError
from jaxscale.laws.base import as_floats
from jaxscale.problem import rows, thetas_of
from jaxscale.report import report
from jaxscale.stacks import STARTS
from jaxscale.starts import corner
from jaxscale.task import Task, checked_weights, make_task
from jaxscale.wander import scatter_of, wander_of, whitening_of


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A fitted law with its errors and its certificate. `print(fit)` is the report.

    `law` is the law; `objective` the sum that was minimised, without a prior's part; `standard_errors` a law of the
    same class with the errors in its fields; `covariance` a dict of dicts by constant, on the log scale for positive
    ones. `errors` says where they come from.
    """

    law: object
    objective: float
    converged: bool
    standard_errors: object
    covariance: dict
    errors: str
    certificate: Certificate
    facts: dict  # what the report and the file say of the table and the question
    task: Task | None = None  # None in a fit read from a file
    point: np.ndarray | None = None  # the free coordinates

    def __str__(self):
        return report(self)

    __repr__ = __str__

    @property
    def free(self):
        """How many constants were fitted: tied ones are one."""
        return len(self.law.constants) - len(self.facts["held"]) - sum(len(group) - 1 for group in self.facts["tied"])

    @property
    def degrees(self):
        """Of freedom of Student's t, by which intervals are made; infinite from 30 runs on."""
        return uncertainty.degrees_of(self.facts["runs"], self.facts["points"], self.free - len(self.facts["prior"]))

    def predict(self, **inputs):
        """The law at the given inputs, as NumPy float64; warns outside the range of the table.

        Any inputs that give the law's own will do: D = B S, S = D / B, D = C / 6N.

        Example:
          >>> fit.predict(N=70e9, D=1.4e12)  # doctest: +SKIP
        """
        from jaxscale.prediction import predict

        return predict(self, inputs)

    def predict_interval(self, level=0.95, new_run=False, **inputs):
        """Lower and upper ends of the prediction's interval, from 1,000 laws drawn from the constants' covariance.

        It holds what the constants do not know; with new_run=True also by how much one row of a new run is off, its
        seed, drift and noise, as the residuals show them (`wander`). It never holds an error in the form of the law.
        """
        from jaxscale.prediction import predict

        draws = predict(self, inputs, law=self.sample(DRAWN))
        if new_run:
            rng = np.random.default_rng(1)
            noise = rng.standard_normal(draws.shape)
            if self.degrees < math.inf:
                noise /= np.sqrt(rng.chisquare(self.degrees, draws.shape) / self.degrees)
            draws = draws * np.exp(noise * scatter_of(self, predict(self, inputs, law=self.law)))
        return tuple(np.quantile(draws, uncertainty.ends(level), axis=0))

    def interval(self, level=0.95):
        """The laws of lower and of upper ends of each constant's interval: so many standard errors, on the log scale
        for a positive one; by Student's t of runs - 1 degrees of freedom below 30 runs. Raises InputError for a level
        that is no share.

        Example:
          >>> low, high = fit.interval(0.8)  # doctest: +SKIP
        """
        width, ends = uncertainty.student(level, self.degrees), []
        for sign in (-1, 1):
            values = {}
            for name, about in self.law.constants.items():
                value, error = getattr(self.law, name), math.sqrt(self.covariance[name][name])
                with np.errstate(over="ignore"):
                    moved = value * np.exp(sign * width * error) if about.positive else value + sign * width * error
                known = not math.isnan(getattr(self.standard_errors, name))
                values[name] = float(np.clip(moved, about.lower, about.upper)) if known else math.nan
            ends.append(type(self.law)(**values))
        return tuple(ends)

    def interval_of(self, function, level=0.95):
        """Lower and upper ends of the interval of anything that the law says: `function` of a law, in JAX.

        From 1,000 laws drawn from the constants' covariance, as for `predict_interval`: a critical batch size, the
        compute-optimal N by `jaxscale.planning.optimum`, a ratio of two losses.

        Example:
          >>> fit.interval_of(lambda law: law.critical_batch_size(2.5), 0.8)  # doctest: +SKIP
        """
        return uncertainty.interval_of(self.sample(DRAWN), function, level)

    def sample(self, draws=1000, seed=0):
        """A batch of laws drawn from a normal with the fit's covariance, in the coordinates that fits use.

        That is on the log scale for positive constants, and by its size amid the table for one that scales a term.
        Below 30 runs from Student's t of runs - 1 degrees of freedom, as few runs do not tell their own scatter.
        """
        spread = uncertainty.as_matrix(self.covariance)
        if not np.all(np.isfinite(spread)):
            raise InputError(f"laws are drawn from the constants' covariance, which this fit does not know (errors: "
                             f"{self.errors}): fit again with errors='sandwich' or 'bootstrap'.")
        return uncertainty.draw(self.law, spread, self.facts["ranges"], draws, seed,
                                self.degrees)

    def bootstrap(self, draws=1000, seed=0, progress=None, starts="global"):
        """Refit to tables in which whole runs are resampled -> `Bootstrap`.

        Each draw has a global search of its own, and this fit's optimum as a start besides; `starts="warm"`: that
        alone. Multinomial counts of runs from 30 runs on, Dirichlet weights below; draws that do not converge are left
        out and counted. Raises InputError for a fit read from a file, which has no runs.
        """
        if starts not in ("global", "warm"):
            raise InputError(f"starts= must be 'global' or 'warm', not {starts!r}.")
        if self.task is None:
            raise InputError("a bootstrap needs the runs, and a fit read from a file has none: fit the table again and "
                             "call bootstrap on that fit.")
        if draws < 2:
            raise InputError(f"a bootstrap needs at least 2 draws, not {draws}: 1000 give errors to 3%.")
        if self.task.run_count < 2:
            raise InputError("a bootstrap needs at least 2 runs to resample, and all rows are of one: name the column "
                             "of run ids with run= (--column run=...) if they are not.")
        return _bootstrap(self.task, self.point, draws, seed, progress, starts)

    def profile(self, level=0.95, constants=None, at=None, errors="runs"):
        """Intervals from profiles of the objective, of the constants and of the loss at a point -> `Profiles`.

        Each is held at values about its best and all others refitted: see `jaxscale.profiles.profile`.

        Example:
          >>> print(fit.profile(0.8, at={"N": 1e10, "D": 2e11}))  # doctest: +SKIP
        """
        from jaxscale.profiles import profile

        return profile(self, level, constants, at, errors)

    def card(self):
        """All that it takes to make this fit again, as JSON data: what `save` writes, and `jaxscale verify` asks again.

        The law, rows by number and their digest, weights, objective, constants held, tied and known before, the seed,
        what came out with its certificate, and the versions it was made with. `Pool.card` has the back-test too.

        Example:
          >>> fit.card()["facts"]["asked"]["digest"]  # doctest: +SKIP
        """
        from jaxscale.files import as_document

        return as_document(self)

    def save(self, path):
        """Write the fit as JSON, atomically, never over the table it was fitted to. `load_fit` reads it back."""
        from jaxscale.files import write

        write(self.card(), path, self.facts["source"])


DRAWN = 1000  # laws, for the interval of a prediction
DRAWS = 512  # of the bootstrap, searched and solved at once; fewer where that were more than ROWS rows
ROWS = 1 << 20
ONE_RUN = "unknown: all rows are of one run, and only other runs can say how runs differ"
SEARCHED = 3  # places of each draw's own search that are followed where the first does not agree with the fit's optimum


def _bootstrap(task, point, draws, seed, progress=None, starts="global"):
    task = dataclasses.replace(task, optimizer=None)  # every draw to its end, whatever found the optimum
    counts = uncertainty.resampled_counts(task.run_count, draws, seed)
    each = min(draws, at_once(task))
    with jax.enable_x64(True):
        problem = task.problem()
        # What a prior knows is resampled too: each draw has a mean of its own, the prior's sd around it.
        mean, precision = problem.prior_mean, problem.prior_precision
        spread = np.sqrt(np.where(precision > 0, (task.phi or 0.0) / np.where(precision > 0, precision, 1.0), 0.0))
        means = mean + spread * np.random.default_rng([seed, 1]).standard_normal((draws, len(mean)))
        # Rows far outside the objective's corner at the optimum weigh less in a search.
        residuals = np.abs(stacks.Stack.of_weights(task, task.weights[None]).rows(point[None]).residuals[0])
        robust = np.minimum(1.0, corner(task.objective, task.observed) / np.maximum(residuals, 1e-300))
        points, values, confirmed = np.empty((draws, len(point))), np.empty(draws), np.zeros(draws, bool)
        for begin in range(0, draws, each):
            block = np.minimum(np.arange(begin, begin + each), draws - 1)  # one shape for all: the last ones are filled
            stack = stacks.Stack.of_weights(task, task.weights * counts[block][:, task.run])
            if task.prior:
                stack = dataclasses.replace(stack, data={"prior_mean": means[block]})
            places = np.tile(point, (each, 1, 1))
            if starts == "global":
                places = np.concatenate([places, stack.starts(stack.weights * robust, SEARCHED)], axis=1)
            count = min(each, draws - begin)
            ends, _ = stacks.settle(stack, np.arange(count), places, progress)
            mine, best = np.arange(count), np.argmin(ends.values[:count], axis=1)
            points[block[:count]] = ends.points[mine, best]
            values[block[:count]] = ends.values[mine, best]
            confirmed[block[:count]] = agreeing(ends.values[:count]) > 1
        kept = np.isfinite(values)
        if not np.any(kept):
            raise FitError(f"none of the {draws} bootstrap draws converged: the table cannot carry this law's "
                           f"{len(task.groups)} constants; hold some with fix=.")
        theta = np.asarray(thetas_of(problem, points))
    how = "runs multinomially" if task.run_count >= 30 else "runs by Dirichlet weights"
    return uncertainty.Bootstrap(as_floats(stacks.laws(task, theta[kept])), float(1 - kept.mean()),
                                 f"{task.run_count} {how}, {draws} draws",
                                 float(confirmed[kept].mean()) if starts == "global" else math.nan)


def at_once(task):
    """How many draws of a task are solved at once: fewer of a long table, to bound memory."""
    return min(DRAWS, max(16, ROWS // len(task.weights)))


def fit(Law, runs, *, objective=None, fix=None, free=(), tie=(), prior=None, bounds=None, weights=None, x=None,
        optimizer=None, max_steps=2000, polish=True, start=None, errors="auto", draws=500, seed=0, drop_bad=False,
        progress=None):
    """Fit a law's constants jointly to a table of runs -> `Fit`.

    Minimises sum over rows of weight * rho(residual) from the best places of a global search, to a certified optimum.

    Args:
      Law: a law class, `laws.Chinchilla`, your own, or a name in `laws.catalogue`.
      runs: `Runs`, a DataFrame, or the path of a table.
      objective: `huber(1e-3)` on log residuals (the default), `lad()`, `squares()`; sums, in the output's units.
      fix: constants held at a value, {"alpha": 0.34}; a constant with a default is held at it unless in `free`.
      tie: groups of constants that share one value, (("alpha", "beta"),).
      prior: {"alpha": (0.34, 0.05)}, mean and standard deviation, the latter of the logarithm for a positive constant.
        Minimised is then objective / phi + sum(((x - mean) / sd)^2) / 2, phi the noise of the fit without the prior.
      bounds: {"beta": (0.1, 1.0)}, within the law's own.
      weights: [n], on top of the table's; or "run", every run counting the same; or "trajectory": the rows of a run
        are taken as correlated, as they wander about a first fit (`wander`), and weigh what they know. A matrix
        [fits, n] is as many fits at once, each with a global search of its own: `GroupFits`, whose errors are by the
        sandwich unless asked for.
      x: the column that `PowerLaw`, or another law of one x, reads.
      optimizer: any optax optimiser in place of the default solver, for at most `max_steps` steps from each start,
        then polished by the default solver unless polish=False.
      start: a law of the class, say from the steps of `recipes`: one more start beside those of the search.
      errors: "sandwich" (clustered by run), "jackknife" (the same with each run's score as without that run, for few
        runs), "bootstrap" (`draws` tables with whole runs resampled, from `seed`), None, or "auto": the bootstrap for
        absolute deviations and where most residuals lie outside Huber's corner, else the jackknife below 30 runs and
        the sandwich from there on.
      drop_bad: leave unusable rows out, listed, instead of refusing the table.
      progress: called with the number of fits that have ended since the last call.

    Raises:
      InputError: the table or the question is wrong. FitError: the constants cannot be told apart, or no start ended.

    Example:
      >>> import numpy as np, jaxscale as jsc
      >>> B = np.array([1e5, 2e5, 4e5, 8e5])
      >>> runs = jsc.Runs.from_columns({"x": B, "loss": 2 + (1e6 / B) ** 0.5})
      >>> fit = jsc.fit(jsc.laws.PowerLaw, runs, free=("E",), objective=jsc.squares())
      >>> print(round(fit.law.alpha, 6), round(fit.law.E, 6))
      0.5 2.0
    """
    check_errors(errors, draws)
    many, correlated = np.ndim(weights) == 2, isinstance(weights, str) and weights == "trajectory"
    task = make_task(Law, runs, objective=objective, fix=fix, free=free, tie=tie, prior=prior, bounds=bounds,
                     weights=None if many or correlated else weights, x=x, optimizer=optimizer, max_steps=max_steps,
                     start=start, drop_bad=drop_bad)
    if many:
        from jaxscale.groups import fit_weightings

        return fit_weightings(task, checked_weights(weights, runs, task.runs), errors, polish, draws, seed, progress)
    with jax.enable_x64(True):
        if not correlated:
            return fit_task(task, polish, errors, draws, seed, progress)
        task, spread = _whitened(task, polish)
        found = fit_task(task, polish, errors, draws, seed, progress)
        return dataclasses.replace(found, facts=found.facts | {"wander": spread._asdict()})


def _whitened(task, polish):
    """The task with the rows of each run taken to be correlated as they are about a first fit, its start; `Wander`."""
    if task.objective.name == "lad":
        raise InputError("weights='trajectory' is generalised least squares, and absolute deviations have no squares: "
                         "fit with objective=squares() or huber(1e-3).")
    first = fit_task(task, polish, None, 0, 0, None)
    spread = wander_of(first)
    if spread is None:
        raise InputError("weights='trajectory' wants several rows of a run at different S or D, which the law reads, "
                         "and there are none: leave it out, or name the column of run ids with run=.")
    return dataclasses.replace(task, whitening=whitening_of(task, spread), start=first.law), spread


def check_errors(errors, draws):
    """Raise InputError for errors that there are none of."""
    if errors not in ("auto", "sandwich", "jackknife", "bootstrap", None):
        raise InputError(f"errors must be 'auto', 'sandwich', 'jackknife', 'bootstrap' or None, not {errors!r}.")
    if errors in ("auto", "bootstrap") and draws < 2:
        raise InputError(f"a bootstrap needs at least 2 draws, not {draws}: 1000 give errors to 3%.")


def fit_task(task, polish, errors, draws, seed, progress, checked=True):
    """The `Fit` of a task; FitError where the table cannot tell the constants apart, unless that is not `checked`."""
    task, starts, jacobian = _starts(task)
    if checked:
        check_identifiable(task, jacobian)
    ends = _search(task, starts, polish)
    if task.prior:
        r = np.asarray(rows(task.problem(), ends.points[np.nanargmin(ends.values)]).residuals)
        task = dataclasses.replace(task, phi=float(uncertainty.noise(task.objective, r, task.weights)))
        ends = _search(task, np.concatenate([ends.points, starts]), polish)
    best = int(np.nanargmin(ends.values))
    values = np.where(np.isnan(ends.values), np.inf, ends.values)
    known = None if task.objective.name == "lad" else type(ends)(*(part[[best]] for part in ends))
    return conclude(task, ends.points[best], values, len(values), known, errors, draws, seed, progress)


def conclude(task, point, values, tried, ends, errors, draws, seed, progress):
    """The `Fit` at a point [q], the best of the ends of `tried` starts, whose values are `values`.

    ends: `Ends` [1] at that point, or None.
    """
    problem, passed, objective = task.problem(), None, None
    if task.objective.name == "lad":
        exact, total, passed = vertex.solve_vertex(problem, point, task.weights)
        objective = np.array([total if passed and not task.prior else vertex.total(
            problem, np.asarray(rows(problem, point).residuals), task.weights)])
        point = exact if passed and not task.prior else point
    stack = stacks.Stack.of_weights(task, task.weights[None])
    jackknife = errors == "jackknife" or errors == "auto" and task.run_count < uncertainty.MANY
    found = stacks.conclude(stack, point[None], values[None], ends, objective, jackknife)
    judged, r = found.judged, found.rows.residuals[0]
    at_bound = tuple("=".join(group) for group, off in zip(task.groups, judged.inner[0], strict=True) if not off)
    certificate = Certificate(float(judged.promised[0]), int(judged.agreeing[0]), tried, float(judged.condition[0]),
                              at_bound, None if task.prior else passed)
    outside = float(found.outside[0])
    law = as_floats(jax.tree.map(lambda x: x[0], found.law))
    unknown = "not asked for" if errors is None else why_unknown(task, task.weights, task.run)
    if not np.all(np.isfinite(found.hessian)):
        unknown = unknown or "unknown: a constant ran off so far that the curvature is no number"
    if unknown is None and wants_bootstrap(task, errors, outside):
        drawn = _bootstrap(task, point, draws, seed, progress)
        covariance, natural = uncertainty.as_matrix(drawn.covariance), drawn.standard_errors
        why = "" if errors == "bootstrap" else (
            ", since absolute deviations have no curvature" if task.objective.name == "lad" else
            f", since {outside:.0%} of the residuals lie outside Huber's corner")
        how = f"bootstrap of {drawn.scheme}, {drawn.failed:.1%} failed{why}"
    elif unknown is ONE_RUN and task.whitening is not None:
        covariance, how = stacks.model_covariance(stack, found)[0], "of rows correlated along their one run"
        natural = as_floats(type(law)(*(np.sqrt(np.diag(covariance)) * stacks.sizes(task, found.rows.theta)[0])))
    else:
        known = np.nan if unknown else 1.0
        covariance = known * found.covariance[0]
        natural = as_floats(type(law)(*(known * found.standard_errors[0])))
        kind = "jackknife of runs" if jackknife else "sandwich clustered by run"
        how = unknown or f"{kind} ({task.run_count} runs)" + (
            f", curvature smoothed over {uncertainty.bandwidth(r, task.weights):.2g}" if task.objective.robust else "")
    stuck = {name: np.nan for names in at_bound for name in names.split("=")}  # a bound is not an estimate
    natural = dataclasses.replace(natural, **stuck)
    return Fit(law, float(found.objective[0]), certificate.converged, natural,
               uncertainty.as_dict(task.Law.constants, covariance), how, certificate,
               _facts(task, r, outside, {"errors": errors, "draws": draws, "seed": seed}), task, point)


def wants_bootstrap(task, errors, outside):
    """Whether errors= asks for the bootstrap, the share of residuals outside the objective's corner being `outside`."""
    return errors == "bootstrap" or errors == "auto" and task.objective.robust and outside > 0.5


def why_unknown(task, weights, run):
    """Why a table, given by the weights and run codes of its rows, cannot say how far the constants may be off."""
    free, rows = len(task.groups), int(np.sum(weights > 0))
    if rows <= free and not task.prior:
        return f"unknown: {rows} rows for {free} constants leave nothing to judge them by"
    if run.max() < 1:
        return ONE_RUN
    return None


def _starts(task):
    """The task with the coordinates that suit its law, its starts in them, and the Jacobian [n, q] at the best."""
    for centring in (task.centring, False):
        task = dataclasses.replace(task, centring=centring)
        starts = task.starts(STARTS)
        if not len(starts):
            raise FitError(f"no start gave a finite objective for {task.Law.__name__}: check the units of the columns, "
                           "or give its constants search= ranges.")
        if task.start is not None:
            starts = np.concatenate([starts, task.point_of(task.start)])
        known = stacks.Stack.of_weights(task, task.weights[None]).rows(starts[:1])
        if np.all(np.isfinite(known.slope)) and np.all(np.isfinite(known.jacobian)):
            break
        # A law written with logs has no slope where a term is switched off: it is fitted in plain coordinates.
    else:
        raise FitError(f"{task.Law.__name__} has no finite loss or slope at its best start: check the units of the "
                       "columns, or give its constants search= ranges.")
    return task, starts, known.jacobian[0]


def _search(task, starts, polish):
    """`Ends` from every start; an optax optimiser's are polished unless that was declined."""
    ends = task.solve(starts)
    if task.optimizer is not None and polish:
        ends = dataclasses.replace(task, optimizer=None).solve(ends.points)
    values = np.where(np.all(np.isfinite(ends.points), axis=1), ends.values, np.nan)
    if not np.any(np.isfinite(values)):
        raise FitError(f"none of the {len(starts)} starts of {task.Law.__name__} ended at a finite objective: check "
                       f"the units of the columns.")
    return ends._replace(values=values)


def _facts(task, residuals, outside, errors):
    """What the report and the file say of the table and the question."""
    import optax

    import jaxscale

    weight = np.bincount(task.run, weights=task.weights)
    return {
        "law": task.Law.__name__,
        "objective": {"text": str(task.objective), "log": task.objective.log},
        "points": len(task.runs),
        "runs": task.run_count,
        "effective_runs": float(weight.sum() ** 2 / np.sum(weight**2)),
        "rms_residual": float(np.sqrt(np.average(residuals**2, weights=task.weights))),
        "outside_corner": outside,
        "inputs": task.names,
        "ranges": {name: [float(values.min()), float(values.max())]
                   for name, values in zip(task.Law.inputs, task.inputs, strict=True)},
        "held": task.held,
        "tied": [list(group) for group in task.groups if len(group) > 1],
        "prior": {name: list(value) for name, value in task.prior.items()},
        "phi": task.phi,
        "source": task.runs.source,
        "digest": task.runs.digest,
        "notes": list(task.runs.notes),
        "dropped": [list(row) for row in task.runs.dropped],
        "asked": task.asked() | errors,
        "versions": {"jaxscale": jaxscale.__version__, "jax": jax.__version__, "optax": optax.__version__},
    }
