"""One law fitted to each group of a table: every family, data source or metric of its own."""

import dataclasses

import jax
import numpy as np

from jaxscale.batching import solve_each
from jaxscale.errors import FitError, InputError
from jaxscale.fitting import Fit, check_errors, conclude, fit_task
from jaxscale.runs import Runs
from jaxscale.task import checked_weights, law_class, make_task


@dataclasses.dataclass(frozen=True, eq=False)
class GroupFits:
    """Fits by group: `keys` [groups] dicts of the group's values, `fits` and `reasons`, one of which is None in each.

    `law` is a law whose fields carry the groups on their leading axis, NaN where a group has no fit.
    """

    Law: type
    keys: tuple[dict, ...]
    fits: tuple[Fit | None, ...]
    reasons: tuple[str | None, ...]

    def __repr__(self):
        done = sum(bool(fit and fit.converged) for fit in self.fits)
        return f"GroupFits of {self.Law.__name__}: {len(self.keys)} groups, {done} converged; to_frame() is the table"

    @property
    def law(self):
        return self.Law(**{name: np.array([getattr(fit.law, name) if fit else np.nan for fit in self.fits])
                           for name in self.Law.constants})

    @property
    def confirmed(self):
        """The share of fitted groups whose optimum was reached from two starts or more."""
        return float(np.mean([fit.certificate.agreeing > 1 for fit in self.fits if fit] or [np.nan]))

    def to_frame(self):
        """A DataFrame, one row a group: its values, the constants, objective, converged, points and reason.

        A group's column that is named as a constant, B of Chinchilla's law say, is called group_B.
        """
        from jaxscale.tables import frame

        return frame([self._row(*group) for group in zip(self.keys, self.fits, self.reasons, strict=True)])

    def _row(self, key, fit, reason):
        found = {name: getattr(fit.law, name) if fit else np.nan for name in self.Law.constants}
        found |= {"objective": fit.objective if fit else np.nan, "converged": bool(fit and fit.converged),
                  "points": fit.facts["points"] if fit else 0, "reason": reason}
        return {f"group_{name}" if name in found else name: value for name, value in key.items()} | found


def fit_groups(Law, table, *, by, progress=None, errors="sandwich", polish=True, draws=500, seed=0, **question):
    """Fit `Law` to each group of a table -> `GroupFits`; a group that cannot be fitted is a row with a reason.

    Groups of a sum of powers (Chinchilla's law, Kaplan's L(N, S), power laws, many a user's) are fitted side by side.

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
    by = [by] if isinstance(by, str) else list(by)
    if not by:
        raise InputError("by= must name at least one column that makes the groups; it is empty: by=['family'], say.")
    groups = table.by(by)
    check_errors(errors, draws)
    fits, reasons = [None] * len(groups), [None] * len(groups)
    tasks = {}
    for i, (_, runs) in enumerate(groups):
        try:
            tasks[i] = make_task(Law, runs, **question)
        except InputError as error:
            reasons[i] = str(error)
            if progress:
                progress(1)
    with jax.enable_x64(True):
        together = dict(zip(tasks, solve_each(list(tasks.values()), progress), strict=True))
        for i, task in tasks.items():
            try:
                if isinstance(together[i], FitError):
                    raise together[i]
                fits[i] = (fit_task(task, polish, errors, draws, seed, None) if together[i] is None else
                           conclude(task, *together[i], errors, draws, seed, None))
                reasons[i] = None if fits[i].converged else "not converged"
            except (InputError, FitError) as error:
                reasons[i] = str(error)
            if progress and not isinstance(together[i], tuple):
                progress(1)
    if not any(fits) and len(set(reasons)) == 1:
        raise InputError(reasons[0])
    return GroupFits(Law, tuple(key for key, _ in groups), tuple(fits), tuple(reasons))
