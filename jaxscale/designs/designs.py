"""`design` and what it gives."""

import dataclasses
import math

import jax
import numpy as np

from jaxscale import uncertainty
from jaxscale.designs.advice import advise
from jaxscale.designs.fisher import Cover, Known
from jaxscale.designs.report import report_of
from jaxscale.designs.seen import Table
from jaxscale.errors import InputError
from jaxscale.fitting import fit_task
from jaxscale.laws import published
from jaxscale.laws.base import as_floats
from jaxscale.objectives import squares
from jaxscale.prediction import evaluate
from jaxscale.problem import rows
from jaxscale.runs import Runs
from jaxscale.task import make_task
from jaxscale.terms import scaling_constants
from jaxscale.wander import wander_of, whitening_of

USUAL = 0.3  # standard deviation of the logarithm of an exponent among published laws


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """What a table can tell of a law. `print(design)` is the report.

    `law` is where the slopes were taken; `noise` the standard deviation of a row's scatter. `spans` are the levels of
    each column, `correlations` those of the logarithms of pairs of inputs. `spectrum` [q] are the singular values of
    the slopes, in units of the scatter: one over each is the standard error along its direction of `directions` [q, q],
    whose columns are the free constants `names`.
    """

    law: object
    rows: int
    runs: int
    noise: float
    spans: dict
    correlations: dict
    names: tuple
    spectrum: np.ndarray
    directions: np.ndarray
    constants: dict  # name -> Known
    quantities: dict  # what -> Known
    advice: tuple
    notes: tuple
    dropped: tuple
    source: str

    @property
    def identified(self):
        """Whether every constant and quantity is."""
        return all(known.identified for known in (*self.constants.values(), *self.quantities.values()))

    def __str__(self):
        return report_of(self)

    __repr__ = __str__


def design(Law, runs, *, compute=None, at=None, noise=None, **question):
    """What a table can tell of a law, before its fit is trusted -> `Design`.

    The law is fitted where it must be, also where the table cannot tell its constants apart (then near published
    exponents, where there are any), and the Fisher information there gives a standard error to every constant and to
    what constants are wanted for: the loss amid the table, on its ray beyond and off it, the slope of N*(C), N*(C)
    itself. What is not identified comes with what to fix or tie, and with a run that would tell. Errors are to first
    order, and hold no error in the form of the law.

    Args:
      Law: a law class, a name in `laws.catalogue`; or a law with its constants, which is then not fitted: the runs may
        be planned ones without a loss.
      runs: `Runs`, a DataFrame, or the path of a table.
      compute: FLOPs to look ahead to; 10 times the largest run's unless given.
      at: one more point where the loss is wanted, {"N": 1e10, "D": 2e11}.
      noise: the standard deviation of a row's ln loss; needed where the runs have no loss, else read off the residuals.
      question: what `fit` takes: objective, fix, free, tie, bounds, x, drop_bad, ...

    Raises:
      InputError: the table or the question is wrong, as in `fit`; FitError: no start of the fit ended.

    Example:
      >>> import numpy as np, jaxscale as jsc
      >>> law = jsc.laws.published["besiroglu2024"]
      >>> N = np.geomspace(1e7, 1e9, 8)
      >>> ray = design(law, jsc.Runs.from_columns({"N": N, "D": 20 * N}), noise=0.01)
      >>> print([name for name, known in ray.quantities.items() if not known.identified])
      ['loss there, 4 times the tokens a parameter', 'slope of N*(C)', 'N*(1.2e+21)']
    """
    with jax.enable_x64(True):
        task, law, scatter = _at_law(Law, runs, noise, question)
        table = Table(task, law, scatter)
        cover = Cover(table.slopes())
        constants = table.constants(cover)
        wanted, nearby = table.wanted(compute, at)
        quantities = {one.name: Known(one.value, cover.error(one.slope), math.nan, one.kind) for one in wanted}
        advice = advise(table, cover, constants, wanted, nearby)
    spectrum, directions = cover.spectrum()
    return Design(law, len(task.runs), task.run_count, scatter, table.spans(), table.correlations(), table.names,
                  spectrum, directions, constants, quantities, advice, task.runs.notes, task.runs.dropped,
                  task.runs.source)


def _at_law(Law, runs, noise, question):
    """The task, the law that slopes are taken at, and the standard deviation of a row's residual."""
    if isinstance(Law, type) or isinstance(Law, str):
        found = fit_task(make_task(Law, runs, **question), True, None, 0, 0, None, checked=False)
        usual = _usual(found.task)
        if not found.converged and usual:
            nearby = dataclasses.replace(found.task, prior=found.task.prior | usual)
            found = dataclasses.replace(found, law=fit_task(nearby, True, None, 0, 0, None, checked=False).law)
        # In plain coordinates: the unconstrained constants themselves, tied ones as one.
        task, spread = dataclasses.replace(found.task, centring=False), wander_of(found)
        if spread is not None:
            task = dataclasses.replace(task, whitening=whitening_of(task, spread))
        law = type(found.law)(**{name: max(value, 1e-300) if about.positive and name not in task.held else value
                                 for (name, about), value in zip(found.law.constants.items(),
                                                                 vars(found.law).values(), strict=True)})
        return task, law, _scatter(task, law) if noise is None else _positive(noise)
    law = as_floats(Law)
    if noise is None:
        raise InputError("a law with its constants is not fitted, so noise= must say by how much the ln loss of a row "
                         "scatters: noise=0.01, say.")
    if not isinstance(runs, Runs):
        from jaxscale.tables import read_runs

        runs = read_runs(runs)
    names = [question.get("x") or name if name == "x" else name for name in law.inputs]
    planned = runs.select(names, names[0], ratios=law.ratios, signed=law.signed)
    losses = evaluate(law, {name: planned.columns[name] for name in names})
    planned = dataclasses.replace(planned, columns=planned.columns | {law.output: losses})
    task = make_task(type(law), planned, **({"objective": squares()} | question))
    return dataclasses.replace(task, centring=False), law, _positive(noise)


def _usual(task):
    """What published laws say of exponents, as priors to take slopes near by where a table leaves them free."""
    laws = [law for law in published.values() if type(law) is task.Law]
    scaling, found = scaling_constants(task.Law, frozenset()), {}
    for name, about in task.Law.constants.items():
        values = [getattr(law, name) for law in laws]
        if values and about.positive and name not in task.held and name not in task.prior and name not in scaling:
            found[name] = float(np.exp(np.mean(np.log(values)))), USUAL
    return found


def _positive(noise):
    if not (isinstance(noise, (int, float)) and 0 < noise < math.inf):
        raise InputError(f"noise= must be the standard deviation of a row's ln loss, above 0, not {noise!r}.")
    return float(noise)


def _scatter(task, law):
    """What the objective sees of the residuals' scatter: for squares their root mean square, less the constants."""
    r, w, objective = np.asarray(rows(task.problem(), task.point_of(law)[0]).residuals), task.weights, task.objective
    square = uncertainty.noise(objective, r, w) / np.average(uncertainty.smoothed_curvature(objective, r, w), weights=w)
    used = np.sum(w > 0)
    return float(np.sqrt(square * used / max(used - len(task.groups), 1)))
