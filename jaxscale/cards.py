"""Does a fit come out again? What a saved fit says of its question, asked of the table once more."""

import dataclasses
import math

import numpy as np

from jaxscale.errors import InputError
from jaxscale.files import FORMAT, read_document
from jaxscale.fitting import Fit, fit
from jaxscale.objectives import Objective
from jaxscale.pooling import pool
from jaxscale.runs import Runs
from jaxscale.task import law_class

OFF = 1e-6  # of the logarithm of a constant, or of the objective, that a fit may be off by
IN_ERRORS = 1e-3  # of its standard error that a constant may be off by, where that is more
OFF_TEST = 1e-3  # of a back-test's errors and widths that they may be off by


@dataclasses.dataclass(frozen=True, eq=False)
class Verification:
    """A fit beside the one that its card tells of.

    `same_data`: the digests of rows, runs and weights agree; `off`: how far each constant is, over what it may be;
    `backtest`: the same of a pool's back-test, None where the card has no pool.
    """

    card: dict
    fit: Fit
    same_data: bool
    off: dict
    objective: float  # relative difference of the objectives
    backtest: float | None = None

    @property
    def reproduces(self):
        return (self.same_data and self.fit.converged == self.card["converged"] and self.objective <= OFF
                and all(off <= 1 for off in self.off.values()) and (self.backtest or 0.0) <= 1)

    def __str__(self):
        rows = [f"{'the fit comes out again' if self.reproduces else 'THE FIT DOES NOT COME OUT AGAIN'}",
                f"  data       {'the same' if self.same_data else 'NOT THE SAME: the digests differ'}",
                f"  {'constant':<10}{'card':>16}{'now':>16}"]
        for name, off in self.off.items():
            value, now = self.card["constants"][name], getattr(self.fit.law, name)
            rows.append(f"  {name:<10}{math.nan if value is None else value:>16.9g}{now:>16.9g}"
                        f"{'' if off <= 1 else '   OFF'}")
        rows.append(f"  objective {self.card['objective']:>16.9g}{self.fit.objective:>16.9g}"
                    f"{'' if self.objective <= OFF else '   OFF'}")
        if self.backtest is not None:
            rows.append(f"  back-test  {'the same' if self.backtest <= 1 else 'NOT THE SAME'}")
        before, now = self.card["facts"]["versions"], self.fit.facts["versions"]
        rows += [f"  {name:<10}{version:>16}{now.get(name, '-'):>16}" for name, version in before.items()]
        return "\n".join(rows)

    __repr__ = __str__


def verify(card, runs, Law=None):
    """Ask the question of a card of a table again -> `Verification`.

    Args:
      card: what `Fit.card` or `Pool.card` gives, or the path of what `save` wrote. Of a pool the back-test is made
        again too.
      runs: the table: `Runs`, a DataFrame or a path, with all rows that the fit saw at the places they had.
      Law: the class, of a law that is not in the catalogue.

    Raises:
      InputError: no card, or a table without the rows or columns it names; FitError as `fit`.

    Example:
      >>> verify("fit.json", "runs.csv").reproduces  # doctest: +SKIP
      True
    """
    card = card if isinstance(card, dict) else read_document(card)
    asked = asked_of(card)
    if not isinstance(runs, Runs):
        from jaxscale.tables import read_runs

        runs = read_runs(runs, columns=asked["columns"])
    Law = law_class(card["law"] if Law is None else Law)
    places = [np.flatnonzero((runs.row >= low) & (runs.row <= high)) for low, high in asked["rows"]]
    wanted = sum(high - low + 1 for low, high in asked["rows"])
    runs = runs.take(np.concatenate(places))
    if len(runs) != wanted:
        raise InputError(f"the card names {wanted} rows, and the table has {len(runs)} of them: it is not the table "
                         "that was fitted, or it was cut.")
    weights = asked["weights"]
    if weights is not None:
        told = np.array(*weights.values())
        if "runs" in weights and len(told) != runs.run.max() + 1:
            raise InputError(f"the card weighs {len(told)} runs, and the table has {runs.run.max() + 1}: it is not the "
                             "table that was fitted.")
        runs = dataclasses.replace(runs, weights=told[runs.run] if "runs" in weights else told)
    else:
        runs = dataclasses.replace(runs, weights=np.ones(len(runs)))
    objective = Objective(**asked["objective"] | {"delta": asked["objective"]["delta"] or math.inf})
    free = [name for name, about in Law.constants.items() if about.default is not None and name not in asked["fix"]]
    found = fit(Law, runs, objective=objective, fix=asked["fix"], free=free, tie=asked["tie"],
                prior={name: tuple(pair) for name, pair in asked["prior"].items()},
                bounds={name: (-math.inf if low is None else low, math.inf if high is None else high)
                        for name, (low, high) in asked["bounds"].items()},
                weights="trajectory" if asked["trajectory"] else None, x=asked["x"], errors=asked["errors"],
                draws=asked["draws"] or 500, seed=asked["seed"] or 0)
    off = {name: _off(card, found, name) for name in Law.constants if name not in asked["fix"]}
    tested = _backtest_off(card["pool"], runs, Law, objective) if card.get("pool") else None
    return Verification(card, found, found.facts["asked"]["digest"] == asked["digest"], off,
                        abs(found.objective - card["objective"]) / max(abs(card["objective"]), 1e-300), tested)


def _backtest_off(before, runs, Law, objective):
    """How far the back-test of a pool is from its card's, over what it may be; infinite where its rows are others."""
    names = dict.fromkeys(row["law"] for row in before["laws"])
    made = pool(runs, [Law if name == Law.__name__ else name for name in names], along=before["along"],
                early=before["facts"]["early"], objective=objective)
    if [row["points"] for row in made.distances] != [row["points"] for row in before["backtest"]]:
        return math.inf
    off = [abs(now[name] / then[name] - 1) for now, then in zip(made.distances, before["backtest"], strict=True)
           for name in ("error", "width")]
    return max([abs(made.width / before["width"] - 1), *off]) / OFF_TEST


def asked_of(card):
    """What a card says was asked. Raises InputError where it says nothing."""
    known = isinstance(card, dict) and card.get("format") == FORMAT and card.get("facts", {}).get("asked")
    if not known:
        raise InputError("verify wants a fit that says what was asked, as 'jaxscale fit -o' writes it by now: "
                         "fit the table again.")
    return known


def _off(card, found, name):
    """How far a constant is from its card's, over what it may be; infinite where there is none."""
    before, now = card["constants"][name], getattr(found.law, name)
    if before is None:
        return math.inf
    error = card["standard_errors"][name] or 0.0
    return abs(now - before) / max(OFF * abs(before), IN_ERRORS * error, 1e-300)
