"""Is recipe B better than recipe A at a budget? One law for both, and what B's runs count for in it."""

import dataclasses
import math

import numpy as np

from jaxscale.errors import FitError, InputError
from jaxscale.fitting import Fit, fit
from jaxscale.laws import Chinchilla
from jaxscale.laws.base import as_floats, constant, law
from jaxscale.planning import check_compute, plan
from jaxscale.runs import Runs
from jaxscale.tables import read_runs
from jaxscale.uncertainty import ends

DRAWS = 2000
UNLIKE = 3.0  # times one recipe's residuals, from which on the other's are pointed out
DECIDED = 0.9  # probability from which on one recipe is said to be the better


@law(inputs=("N", "D", "recipe"), signed=("recipe",))
class TwoRecipes:
    """`Chinchilla` of two recipes: L = E + A / (n^r N)^alpha + B / (d^r D)^beta, r = 0 for recipe A and 1 for B.

    A parameter of recipe B counts as n of recipe A's, a token as d. E and the exponents are shared, so with C = 6 N D
    its compute counts as n d of recipe A's: to the same least loss, at any budget.
    """

    E: float = constant(positive=True)
    A: float = constant(positive=True)
    B: float = constant(positive=True)
    alpha: float = constant(positive=True)
    beta: float = constant(positive=True)
    n: float = constant(positive=True, search=(0.3, 3.0))
    d: float = constant(positive=True, search=(0.3, 3.0))

    def __call__(self, N, D, recipe):
        return self.E + self.A / (self.n**recipe * N) ** self.alpha + self.B / (self.d**recipe * D) ** self.beta

    def of(self, recipe):
        """The `Chinchilla` of recipe 0 or 1."""
        return Chinchilla(E=self.E, A=self.A / self.n ** (recipe * self.alpha),
                          B=self.B / self.d ** (recipe * self.beta), alpha=self.alpha, beta=self.beta)


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What recipe B's compute counts for, and what it reaches at a budget beside recipe A.

    Intervals are of `level`, over laws of both recipes drawn together: what the two share moves both.
    """

    compute: float
    level: float
    multiplier: float  # n d
    multiplier_interval: tuple
    probability: float  # that recipe B reaches the lower loss
    losses: tuple  # the least loss of A and of B at the budget
    difference: float  # B's less A's, nats
    difference_interval: tuple
    fit: Fit
    alone: tuple  # the least losses by a law of each recipe's own runs; NaN where those cannot tell one
    residuals: tuple  # root mean squares of A's and of B's
    notes: tuple

    @property
    def agree(self):
        """Whether the laws of each recipe's runs alone order the two as the law of both does."""
        return not (self.alone[1] - self.alone[0]) * self.difference < 0

    def __str__(self):
        low, high = self.multiplier_interval
        less, more = self.difference_interval
        p = self.probability
        verdict = ("the law of both and those of each alone do not agree on which is better" if not self.agree else
                   "recipe B is better" if p >= DECIDED else "recipe A is better" if p <= 1 - DECIDED else
                   "these runs do not tell which is better")
        return "\n".join([
            f"{verdict}: B reaches the lower loss with probability {p:.1%} if they share exponents and floor",
            f"  compute of B counts as {self.multiplier:.3g} times A's, {self.level:.0%} from {low:.3g} to {high:.3g}",
            f"  least loss at {self.compute:.3g} FLOPs: A {self.losses[0]:.4f}, B {self.losses[1]:.4f}; "
            f"B less A {self.difference:+.4f}, from {less:+.4f} to {more:+.4f}",
            f"  each recipe's runs alone say {' and '.join(map(_loss, self.alone))}",
            f"  a parameter of B counts as {self.fit.law.n:.3g} of A's, a token as {self.fit.law.d:.3g}",
            f"  residuals: A {self.residuals[0]:.2%}, B {self.residuals[1]:.2%}; errors {self.fit.errors}",
            *(f"  note: {note}" for note in self.notes)])

    __repr__ = __str__


def _loss(value):
    return "that they cannot tell" if math.isnan(value) else f"{value:.4f}"


def compare(a, b, compute, level=0.8, seed=0, **question):
    """Whether runs of recipe B promise more than those of recipe A at a budget -> `Comparison`.

    Both tables are fitted by one law, `TwoRecipes`, in which E and the exponents are shared, and laws are drawn from
    its errors: by the jackknife of runs and Student's t below 30 runs. Where the runs cannot tell what a parameter
    counts for from what a token does, n and d are tied, and that is said.

    Args:
      a, b: tables of N, D (or any two of C, N, D) and the loss on the same text: `Runs`, DataFrames or paths.
      compute: FLOPs of the run to be decided on.
      level: of the intervals.
      question: what `fit` takes; fix={"n": 1.0} for a recipe of other data alone, tie=("n", "d"), objective, errors.

    Raises:
      InputError: a table is wrong, or both have too few runs. FitError: the runs cannot tell the constants apart.

    Example:
      >>> print(compare("a.csv", "b.csv", compute=1e22))  # doctest: +SKIP
    """
    compute = float(check_compute(compute))
    tables = [(one if isinstance(one, Runs) else read_runs(one)).select(("N", "D"), drop_bad=question.get(
        "drop_bad", False)) for one in (a, b)]
    together = _together(*tables)
    runs = int(together.run.max()) + 1
    question = {"errors": "jackknife" if runs < 30 else "sandwich"} | question
    notes = []
    try:
        found = fit(TwoRecipes, together, **question)
    except FitError:
        if {"n", "d"} & {*question.get("fix", ()), *np.ravel(question.get("tie", ()))}:
            raise
        notes.append("the runs cannot tell parameters from tokens: n and d are taken to be one")
        found = fit(TwoRecipes, together, **question, tie=(*question.get("tie", ()), ("n", "d")))
    if not found.converged:
        notes.append("the fit has not converged: the numbers would mislead")
    if max(getattr(found.standard_errors, name) / getattr(found.law, name) for name in "nd") > 1:
        notes.append("what a parameter and a token of B count for is hardly known each alone (tie=('n', 'd') or --tie "
                     "n=d takes them as one)")
    drawn = found.sample(DRAWS, seed)
    best = [plan(as_floats(found.law.of(r)), compute=compute) for r in (0, 1)]
    paired = [plan(as_floats(drawn.of(r)), compute=compute).loss for r in (0, 1)]
    able = np.isfinite(paired[0]) & np.isfinite(paired[1])
    multipliers, off = drawn.n * drawn.d, (paired[1] - paired[0])[able]
    alone = tuple(_alone(one, compute, {name: question[name] for name in question if name in (
        "objective", "weights", "drop_bad")}) for one in tables)
    task, at = found.task, ends(level)
    columns = {name: task.runs.columns[name] for name in ("N", "D", "recipe")}
    r = np.log(np.asarray(found.predict(**columns)) / task.runs.columns["loss"])
    residuals = tuple(float(np.sqrt(np.mean(r[columns["recipe"] == kind] ** 2))) for kind in (0, 1))
    if max(residuals) > UNLIKE * min(residuals):
        notes.append("one recipe's residuals are far larger than the other's: shared exponents may not hold")
    return Comparison(compute, level, found.law.n * found.law.d, tuple(np.quantile(multipliers, at)),
                      float(np.mean(off < 0)), tuple(float(one.loss) for one in best),
                      float(best[1].loss - best[0].loss), tuple(np.quantile(off, at)), found, alone, residuals,
                      (*notes, *found.facts["notes"]))


def _alone(runs, compute, question):
    """The least loss at a compute by `Chinchilla` of one recipe's runs; NaN where there is none."""
    try:
        return float(plan(fit(Chinchilla, runs, errors=None, **question).law, compute=compute).loss)
    except (FitError, InputError):
        return math.nan


def _together(a, b):
    """The runs of both, with a column that says whose."""
    columns = {name: np.concatenate([one.columns[name] for one in (a, b)]) for name in ("N", "D", "loss")}
    columns["recipe"] = np.repeat([0.0, 1.0], [len(a), len(b)])
    run = np.concatenate([a.run, b.run + a.run.max() + 1])
    return Runs.from_columns(columns, run=run, weights=np.concatenate([a.weights, b.weights]),
                             source=f"{a.source} and {b.source}")
