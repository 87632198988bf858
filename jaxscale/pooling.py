"""Several laws fitted to one table, each with several ways to weigh its early runs, and one forecast made of them.

No single law is honest about runs far beyond its table: what its constants do not know is little against an error in
its form. The laws' disagreement shows that error, and back-tests inside the table (`validation`) how large it is.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from jaxscale import validation
from jaxscale.errors import InputError
from jaxscale.files import law_name
from jaxscale.fitting import fit
from jaxscale.objectives import huber
from jaxscale.planning import plan
from jaxscale.prediction import predict_each
from jaxscale.runs import Runs
from jaxscale.task import law_class
from jaxscale.uncertainty import ends, student

LAWS = ("chinchilla", "kaplan-nd")
WITH_BATCH = "kaplan-nsb"
EARLY = {"all rows": None, "late rows weigh more": 0.5, "last two thirds": "late"}
CUTS = 10 ** np.arange(3.0, 0.0, -0.5)  # how far below the largest run
LEAST_ROWS, LEAST_SIZES, LEAST_RUNS = 8, 3, 4  # of what is fitted below a cut
ALONG = {"C": ("N", "D"), "N": ("N",), "D": ("D",)}
LEAST_COVERED = 0.6  # by intervals of 80% in a back-test, or it is said
DRAWS = 100  # laws of a member, from its covariance, in a plan


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One law of a pool: `early` says which rows it weighs how."""

    name: str
    early: str
    fit: object  # `Fit`
    weight: float

    @property
    def law(self):
        return self.fit.law


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Laws fitted to one table, and what their back-tests say. `print` is the report."""

    members: tuple[Member, ...]
    backtest: validation.Backtest
    width: float  # of intervals, against what is usual on real tables
    noise: float  # standard deviation of ln loss about a law
    largest: float  # C, N or D in the table
    facts: dict

    @property
    def weights(self):
        """[members]"""
        return np.array([member.weight for member in self.members])

    def each(self, **inputs):
        """The loss by every member: a dict (law, early) -> NumPy float64 in the shape of the inputs."""
        return {(member.name, member.early): predict_each(member.law, inputs) for member in self.members}

    def predict(self, **inputs):
        """The loss that the pool expects at the given inputs, its members' weighted geometric mean, NumPy float64.

        Example:
          >>> pool.predict(N=70e9, D=1.4e12)  # doctest: +SKIP
        """
        return np.exp(self._combined(inputs).centre)

    def predict_interval(self, level=0.8, **inputs):
        """Lower and upper ends of the interval of a new run's loss, of a level, in the shape of the inputs.

        It holds the noise of a run and the error in the form of the laws, as the back-test and other tables tell them.
        """
        half, both = student(level, math.inf), self._combined(inputs)
        return tuple(np.exp(both.centre + sign * half * both.sd) for sign in (-1, 1))

    def distance(self, **inputs):
        """How many times beyond the largest run of the table the inputs are, in compute (or N, or D)."""
        arrays = dict(zip(inputs, np.broadcast_arrays(*inputs.values()), strict=True))
        shape = next(iter(arrays.values())).shape
        columns = {name: np.ravel(np.asarray(x, float)) for name, x in arrays.items()}
        return _along(Runs.from_columns(columns), self.facts["along"]).reshape(shape) / self.largest

    def plan(self, compute, level=0.8, **conditions):
        """The compute-optimal run by every member and by all -> `PoolPlan`. `conditions`: as for `jaxscale.plan`.

        N and D are medians over laws drawn from every member's covariance, by weight, and their intervals quantiles.
        What was trained can test a forecast of the loss, not one of the best N: that interval is not back-tested.
        """
        best, drawn, able, why = {}, [], [], []
        for member in self.members:
            try:
                found = plan(member.law, compute=compute, **conditions)
                some = plan(member.fit.sample(DRAWS, seed=len(able)), compute=compute, **conditions)
            except InputError as error:
                why.append(str(error))
                continue
            best[member.name, member.early] = found
            drawn.append([some.N, some.D])
            able.append(member.weight)
        if not best:
            raise InputError(f"no law of the pool has a best run at this compute: {why[0]}")
        weights = np.array(able) / sum(able)
        draws = np.concatenate(drawn, axis=1)
        usable = np.isfinite(draws).all(axis=tuple(i for i in range(draws.ndim) if i != 1))
        share = np.repeat(weights / DRAWS, DRAWS)
        (N, *ends_N), (D, *ends_D) = (np.quantile(x[usable], (0.5, *ends(level)), axis=0, weights=share[usable],
                                                  method="inverted_cdf") for x in draws)
        where = {"N": N, "D": D} | self._batch(D, best.values())
        interval = {"N": tuple(ends_N), "D": tuple(ends_D), "loss": self.predict_interval(level, **where)}
        return PoolPlan(np.asarray(compute, float), N, D, self.predict(**where), interval, best, tuple(why),
                        float(usable.mean()), level)

    def _batch(self, D, plans):
        """The steps of a plan, where a member reads them."""
        batches = [one.B for one in plans if one.B is not None]
        return {"S": D / batches[0]} if batches else {}

    def _combined(self, inputs):
        if not inputs:
            raise InputError("a pool of laws needs N and D: pass them by name.")
        forecasts = np.log(np.array([*self.each(**inputs).values()]))
        shape, count = forecasts.shape[1:], len(forecasts)
        distance = np.ravel(self.distance(**inputs))
        both = validation.combine(forecasts.reshape(count, -1), self.weights, self.noise, distance, self.width)
        return validation.Combined(both.centre.reshape(shape), both.sd.reshape(shape))

    def __str__(self):
        lines = [f"{self.facts['points']} rows, {self.facts['runs']} runs, {self.facts['along']} up to "
                 f"{self.largest:.3g}; rows lie {self.noise:.2%} about the laws", "",
                 f"{'law':<12}{'early rows':<22}{'weight':>7}{'missed by, 3-10x beyond':>25}"]
        table = {row["from"]: row["errors"] for row in self.backtest.by_distance()}
        for member in self.members:
            missed = table.get(3.0, {}).get(f"{member.name}, {member.early}")
            lines.append(f"{member.name:<12}{member.early:<22}{member.weight:>7.2f}"
                         f"{'-' if missed is None or np.isnan(missed) else format(missed, '.2%'):>25}")
        return "\n".join([*lines, "", "Forecasts of this table's larger runs from its smaller ones:",
                          str(self.backtest), "", self.said()])

    __repr__ = __str__

    def said(self):
        """What the intervals rest on, in a sentence."""
        said = []
        if len(self.backtest):
            said.append(f"Intervals are {self.width:.2f} times as wide as is usual on real tables.")
        else:
            said.append("The table is too small to back-test: intervals are as wide as was right on other tables "
                        "(benchmarks/calibration.md).")
        short = [row for row in self.backtest.by_distance(0.8) if row["coverage"] < LEAST_COVERED]
        if short:
            shares = " and ".join(f"{row['coverage']:.0%} at {validation.far(row)}" for row in short)
            said.append(f"Caution: intervals of 80% made that way held only {shares} of this table's own rows.")
        if len({member.name for member in self.members}) == 1:
            said.append(f"Caution: all is by {self.members[0].name}, so nothing shows how far its form may be off.")
        return "\n".join(said)


@dataclasses.dataclass(frozen=True, eq=False)
class PoolPlan:
    """The compute-optimal run by a pool: numbers, or arrays [budgets]."""

    compute: np.ndarray
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    interval: dict  # N, D and loss -> (lower, upper)
    each: dict  # (law, early) -> `Plan`
    lost: tuple  # why members have no best run here
    usable: float  # the share of drawn laws that have an optimum
    level: float

    def __str__(self):
        lines = []
        for i in range(np.size(self.compute)):
            lines += [f"at {np.ravel(self.compute)[i]:.3g} FLOPs"]
            for name, digits in (("N", ".3e"), ("D", ".3e"), ("loss", ".4f")):
                value, low, high = (format(np.ravel(x)[i], digits) for x in (getattr(self, name),
                                                                             *self.interval[name]))
                lines.append(f"{name:<6}{value:>11}   {self.level:.0%} within {low} to {high}")
            lines += [f"  {law:<12}{early:<22}N {np.ravel(one.N)[i]:.3e}   D/N "
                      f"{np.ravel(one.D)[i] / np.ravel(one.N)[i]:7.3g}   loss {np.ravel(one.loss)[i]:.4f}"
                      for (law, early), one in self.each.items()]
        if self.lost:
            lines.append(f"{len(self.lost)} of {len(self.lost) + len(self.each)} have no best run here and are left "
                         "out: what can this table tell? (jaxscale design)")
        return "\n".join(lines)

    __repr__ = __str__


def pool(runs, laws=None, *, along="C", early=True, objective=None, drop_bad=False, progress=None):
    """Fit several laws to a table and combine their forecasts, by how they did in back-tests -> `Pool`.

    Args:
      runs: `Runs`, a DataFrame, or the path of a table, with N, D and loss; with S and B too, if there are several B.
      laws: of N and D, or of N, S and B; by default Hoffmann's and Kaplan's, and L(N, S, B) where B varies.
      along: what the back-test cuts: "C" (6 N D), "N" or "D". Intervals were calibrated for C.
      early: fit each law three times: to all rows, with weights C^(1/2), and to the two thirds of most compute.
      objective: as in `fit`.
      progress: called with the number of fits that have ended since the last call.

    Raises:
      InputError: the table has no N, D and loss, or none of the laws can be fitted to it.

    Example:
      >>> import jaxscale as jsc
      >>> pool = jsc.pool(jsc.datasets.ladder().query("B == 16384 and S >= 400"))  # doctest: +SKIP
      >>> low, high = pool.predict_interval(0.8, N=1e7, D=1e9)  # doctest: +SKIP
    """
    tried = forecasts(runs, laws, along, early, objective, drop_bad, progress)
    *earlier, last = tried.cuts
    weights, width = validation.judge(earlier, tried.along, tried.observed, len(tried.names))
    tested = validation.backtest_of(earlier, tried.along, tried.observed, [", ".join(name) for name in tried.names],
                                    along, tried.table.row)
    members = tuple(Member(*name, one, float(weight))
                    for name, one, weight in zip(tried.names, tried.fits, weights, strict=True))
    table = tried.table
    facts = {"along": along, "points": len(table), "runs": len(np.unique(table.run)),
             "notes": [*table.notes, *tried.lost], "dropped": [list(row) for row in table.dropped]}
    return Pool(members, tested, width, last.noise, last.at, facts)


def backtest(runs, laws=None, *, along="C", early=False, objective=None, drop_bad=False, progress=None):
    """Forecast the larger runs of a table from its smaller ones -> `Backtest`; arguments as for `pool`.

    Example:
      >>> print(jsc.backtest("runs.csv", ["chinchilla"]))  # doctest: +SKIP
    """
    return pool(runs, laws, along=along, early=early, objective=objective, drop_bad=drop_bad,
                progress=progress).backtest


class Forecasts(NamedTuple):
    """Every law fitted below every cut, and at last to the whole table."""

    table: Runs
    along: np.ndarray  # [n] C, N or D
    observed: np.ndarray  # [n] ln loss
    names: list  # (law, early)
    fits: list  # to the whole table
    cuts: list  # `validation.Cut`s, the last of the whole table
    lost: tuple  # sentences: why laws are not among them


def forecasts(runs, laws=None, along="C", early=True, objective=None, drop_bad=False, progress=None):
    """`Forecasts` of a table; arguments as for `pool`."""
    if along not in ALONG:
        raise InputError(f"along= must be one of {', '.join(ALONG)}, not {along!r}.")
    if not isinstance(runs, Runs):
        from jaxscale.tables import read_runs

        runs = read_runs(runs)
    laws = (laws,) if isinstance(laws, str | type) else laws
    laws = [law_class(law) for law in laws or (*LAWS, *([WITH_BATCH] if _batches(runs) else []))]
    table = runs.select(tuple(dict.fromkeys(("N", "D", *(name for Law in laws for name in Law.inputs)))),
                        drop_bad=drop_bad)
    x, observed, used = _along(table, along), np.log(table.columns["loss"]), table.weights > 0
    cuts = np.unique([x[used & (x <= x.max() / far)].max(initial=0) for far in CUTS])
    cuts = [float(cut) for cut in cuts if _enough(table, used & (x <= cut))] + [float(x.max())]
    ways = EARLY if early else {"all rows": None}
    weightings = np.array([_weighting(table, used & (x <= cut), way) for way in ways.values() for cut in cuts])
    names, fits, found, noise, why = [], [], [], [], []
    for Law in laws:
        many = fit(Law, table, weights=weightings, objective=objective or huber(1e-3), errors="sandwich",
                   progress=progress)
        losses = predict_each(many.law, {name: table.columns[name] for name in Law.inputs})
        constants = sum(about.default is None for about in Law.constants.values())
        for i, way in enumerate(ways):
            here = slice(i * len(cuts), (i + 1) * len(cuts))
            if not np.isfinite(losses[here][-1]).all():
                why.append(f"{law_name(Law)} is left out: {many.reasons[here][-1]}".rstrip("."))
                continue
            names.append((law_name(Law), way))
            fits.append(many.fits[here.stop - 1])
            found.append(np.log(losses[here]))
            noise.append([_noise(observed - row, weights, constants) for row, weights in
                          zip(found[-1], weightings[here], strict=True)])
    if not names:
        raise InputError(f"none of the laws can be fitted to this table ({'; '.join(dict.fromkeys(why))}): add runs.")
    found, noise = np.array(found), np.array(noise)
    able = np.isfinite(found).all(axis=2)
    cuts = [validation.Cut(cut, np.where(able[:, i, None], found[:, i], np.nan), float(np.median(noise[able[:, i], i])))
            for i, cut in enumerate(cuts) if able[:, i].any()]
    return Forecasts(table, x, observed, names, fits, cuts, tuple(dict.fromkeys(why)))


def _batches(runs):
    """Whether a table has what the law with a batch reads, and several batches."""
    try:
        return len(np.unique(runs.select(("N", "S", "B"), drop_bad=True).columns["B"])) > 1
    except InputError:
        return False


def _along(runs, name):
    """C (as 6 N D), N or D of the rows."""
    columns = runs.select(ALONG[name], ALONG[name][0]).columns
    return 6 * columns["N"] * columns["D"] if name == "C" else columns[name]


def _enough(table, rows):
    return (rows.sum() >= LEAST_ROWS and len(np.unique(table.columns["N"][rows])) >= LEAST_SIZES
            and len(np.unique(table.run[rows])) >= LEAST_RUNS)


def _weighting(table, rows, how):
    """Weights [n] of rows up to a cut, by how early ones count."""
    C = 6 * table.columns["N"] * table.columns["D"]
    if how is None or not rows.any():
        return rows.astype(float)
    if how == "late":
        late = rows & (C > np.quantile(C[rows], 1 / 3))
        return (late if _enough(table, late) else rows).astype(float)
    return np.where(rows, (C / C[rows].max()) ** how, 0.0)


def _noise(residuals, weights, constants):
    n = np.count_nonzero(weights)
    return np.sqrt(np.average(residuals**2, weights=weights) * n / max(n - constants, 1))

