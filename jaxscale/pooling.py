"""Several laws fitted to one table, each with several ways to weigh its early runs, and one forecast made of them.

No single law is honest about runs far beyond its table: what its constants do not know is little against an error in
its form. The laws' disagreement shows that error, and back-tests inside the table (`cuts`, `validation`) how large it
is.
"""

import dataclasses
import math
import warnings

import numpy as np

from jaxscale import validation
from jaxscale.cuts import WITH_BATCH, along_of, forecasts
from jaxscale.errors import InputError
from jaxscale.files import as_document, constants_of, law_of, load_fit, number, plain, read_document, whole, write
from jaxscale.planning import plan
from jaxscale.prediction import predict_each
from jaxscale.runs import Runs
from jaxscale.task import law_class
from jaxscale.uncertainty import each, ends, student

CANDIDATES = 64  # runs that a plan chooses from
BUDGETS = 32  # that are looked at for a loss


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One law of a pool: `early` says which rows it weighs how, `draws` is a law of its fits to resampled runs."""

    name: str
    early: str
    law: object
    weight: float
    draws: object  # fields [draws]


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Laws fitted to one table, and what their back-tests say. `print` is the report."""

    members: tuple[Member, ...]
    fit: object  # the one that stands for all where a single law is wanted
    backtest: validation.Backtest | None  # None in a pool read from a file
    distances: tuple[dict, ...]  # the back-test with intervals of 80%: see `Backtest.by_distance`
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
        """The loss that the pool expects at the given inputs, NumPy float64.

        That is the weighted geometric mean over its members' fits to resampled runs, which errs less than their best
        fits do.

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

    def interval_of(self, function, level=0.8):
        """Lower and upper ends of the interval of anything that the pool's laws say: `function` of a law, in JAX.

        By weight over the members' fits to resampled runs; laws that have not what is asked are left out. It is what
        the laws and their constants disagree about, and nothing tests it.

        Raises:
          InputError: no law of the pool has what is asked.

        Example:
          >>> pool.interval_of(lambda law: law(1e9, 1e12) - law(1e9, 2e12))  # doctest: +SKIP
        """
        drawn = []
        for member in self.members:
            try:
                drawn.append((each(member.draws, function), member.weight))
            except InputError as error:
                why = error
        if not drawn:
            raise InputError(f"no law of the pool has what is asked: {why}")
        if len(drawn) < len(self.members):
            warnings.warn(f"{len(self.members) - len(drawn)} of {len(self.members)} laws have not what is asked, and "
                          "are left out.", stacklevel=2)
        return tuple(weighted_ends(drawn, ends(level)))

    def distance(self, **inputs):
        """How many times beyond the largest run of the table the inputs are, in compute (or N, or D)."""
        arrays = dict(zip(inputs, np.broadcast_arrays(*inputs.values()), strict=True))
        shape = next(iter(arrays.values())).shape
        columns = {name: np.ravel(np.asarray(x, float)) for name, x in arrays.items()}
        return along_of(Runs.from_columns(columns), self.facts["along"]).reshape(shape) / self.largest

    def plan(self, compute=None, level=0.8, *, loss=None, **conditions):
        """The run of least loss for a compute, or of least compute for a loss, by each member and all -> `PoolPlan`.

        Of the runs that its members' fits to resampled runs would train, the one whose loss the pool forecasts lowest;
        the intervals of N and D hold a share of those runs. For a loss the compute at which the pool forecasts it, and
        those at which the ends of the forecast's interval are there. What was trained can test a forecast of the loss,
        not one of the best N: that interval is not back-tested. `conditions`: as for `jaxscale.plan`.

        Raises:
          InputError: as `jaxscale.plan`, or the pool forecasts no run that reaches the loss.

        Example:
          >>> print(pool.plan(1e24))  # doctest: +SKIP
        """
        if (compute is None) == (loss is None):
            raise InputError("a pool plans for one of compute= and loss=, not "
                             f"{'neither' if loss is None else 'both'}: pool.plan(1e24), say.")
        if loss is None:
            return self._best(compute, level, conditions)
        reached = [self._reached(float(aim), level, conditions) for aim in np.ravel(loss)]
        C, *outer = (np.reshape(part, np.shape(loss)) for part in zip(*reached, strict=True))
        found = self._best(C[()], level, conditions)
        interval = {"compute": tuple(end[()] for end in outer)} | found.interval
        del interval["loss"]
        return dataclasses.replace(found, loss=np.asarray(loss, float), interval=interval)

    def _best(self, compute, level, conditions):
        """The plan for a compute."""
        best, drawn, why = {}, [], []
        for member in self.members:
            try:
                found = plan(member.law, compute=compute, **conditions)
                some = plan(member.draws, compute=compute, **conditions)
            except InputError as error:
                why.append(str(error))
                continue
            best[member.name, member.early] = found
            drawn.append((np.stack([some.N, some.D], axis=1), member.weight))
        if not best:
            raise InputError(f"no law of the pool has a best run here: {why[0]}")
        ends_N, ends_D = np.swapaxes(weighted_ends(drawn, ends(level)), 0, 1)
        N, D = np.swapaxes(np.concatenate([draws for draws, _ in drawn]), 0, 1)
        usable = np.isfinite(N).mean() * len(best) / len(self.members)
        able = np.isfinite(N).any(axis=0)
        if not np.any(able):
            raise InputError("no law of the pool has a best run here: it would be of less than one parameter or token.")
        order = np.argsort(N, axis=0)  # NaN last
        ranks = np.linspace(0, np.isfinite(N).sum(axis=0) - 1, CANDIDATES).astype(int)
        N, D = (np.take_along_axis(np.take_along_axis(x, order, axis=0), ranks, axis=0) for x in (N, D))
        where = {"N": np.where(able, N, 1.0), "D": np.where(able, D, 1.0)}
        where |= self._batch(where["D"], best.values())
        least = np.argmin(self.predict(**where), axis=0, keepdims=True)
        where = {name: np.take_along_axis(x, least, axis=0)[0] for name, x in where.items()}
        loss, *ends_loss = (np.where(able, x, np.nan)[()] for x in (
            self.predict(**where), *self.predict_interval(level, **where)))
        interval = {"N": tuple(ends_N), "D": tuple(ends_D), "loss": tuple(ends_loss)}
        return PoolPlan(np.asarray(compute, float), *(np.where(able, where[name], np.nan)[()] for name in "ND"), loss,
                        interval, best, tuple(why), float(usable), level)

    def _reached(self, loss, level, conditions):
        """The compute at which the forecast of the best run is a loss, and where its interval's ends are, or inf."""
        alone = []
        for member in self.members:
            try:
                alone.append(float(plan(member.law, loss=loss, **conditions).compute))
            except InputError as error:
                why = error
        if not np.any(np.isfinite(alone)):
            raise InputError(f"the pool forecasts no run that reaches a loss of {loss:g}: {why}")
        finite = np.compress(np.isfinite(alone), alone)
        low, high = np.clip([finite.min() / 1e3, finite.max() * 1e6], 1e7, 1e34)  # what plans are made for
        C = np.geomspace(low, high, BUDGETS)
        found = self._best(C, level, conditions)
        at, first, last = (_crossing(C, line, loss) for line in (found.loss, *found.interval["loss"]))
        if not np.isfinite(at):
            raise InputError(f"the pool forecasts no run that reaches a loss of {loss:g}: the least is "
                             f"{np.nanmin(found.loss):.4f}, at {high:.2g} FLOPs.")
        step = (high / low) ** (1 / (BUDGETS - 1))
        C = np.geomspace(at / step, at * step, BUDGETS)
        return _crossing(C, self._best(C, level, conditions).loss, loss), first, last

    def _batch(self, D, plans):
        """The steps of a plan, where a member reads them."""
        batches = [one.B for one in plans if one.B is not None]
        return {"S": D / batches[0]} if batches else {}

    def _combined(self, inputs):
        if not inputs:
            raise InputError("a pool of laws needs N and D: pass them by name.")
        forecasts = np.log(np.array([predict_each(member.draws, inputs) for member in self.members]))
        count, draws, *shape = forecasts.shape
        both = validation.combine(forecasts.reshape(count, draws, -1), self.weights, self.noise,
                                  np.ravel(self.distance(**inputs)), self.width)
        return validation.Combined(both.centre.reshape(shape), both.sd.reshape(shape))

    def __str__(self):
        lines = [f"{self.facts['points']} rows, {self.facts['runs']} runs, {self.facts['along']} up to "
                 f"{self.largest:.3g}; rows lie {self.noise:.2%} about the laws", "",
                 f"{'law':<12}{'weight':>7}{'missed by, 3-10x beyond':>25}   (each with "
                 f"{len({member.early for member in self.members})} ways to weigh early rows)"]
        errors = next((row["errors"] for row in self.distances if row["from"] == 3.0), {})
        for name, own in by_law((member.name, member) for member in self.members):
            missed = [errors.get(title(member), math.nan) for member in own]
            lines.append(f"{name:<12}{sum(member.weight for member in own):>7.2f}"
                         f"{'-' if np.isnan(missed).all() else span(missed, '.2%'):>25}")
        return "\n".join([*lines, "", "Forecasts of this table's larger runs from its smaller ones:",
                          validation.shown(self.distances, self.facts["along"]), "", self.said()])

    __repr__ = __str__

    def said(self):
        """What the intervals rest on, in a sentence."""
        said = []
        if self.distances:
            said.append(f"Intervals are {self.width:.2f} times as wide as is usual on real tables.")
        else:
            said.append("The table is too small to back-test: intervals are as wide as was right on other tables "
                        "(benchmarks/calibration.md).")
        said += filter(None, [validation.caution(self.distances)])
        most = max(len(member.law.constants) for member in self.members)
        if self.facts["runs"] < 2 * most:
            said.append(f"Caution: {self.facts['runs']} runs are few for laws of up to {most} constants: forecasts "
                        "from so few were not tried on real tables.")
        if len({member.name for member in self.members}) == 1:
            said.append(f"Caution: all is by {self.members[0].name}, so nothing shows how far its form may be off.")
        return "\n".join(said)

    def card(self):
        """The card of `fit` with all that the pool is made of under "pool": what `save` writes and `verify` asks again.

        Example:
          >>> pool.card()["pool"]["backtest"]  # doctest: +SKIP
        """
        laws = [{"law": member.name, "early": member.early, "weight": member.weight,
                 "constants": constants_of(member.law), "draws": constants_of(member.draws)}
                for member in self.members]
        return as_document(self.fit) | {"answer": "pool", "pool": plain({
            "laws": laws, "width": self.width, "noise": self.noise, "along": self.facts["along"],
            "largest": self.largest, "backtest": self.distances, "facts": self.facts})}

    def save(self, path):
        """Write the pool as JSON, atomically, never over its table; `load_pool` reads it, `load_fit` its one fit."""
        write(self.card(), path, self.fit.facts["source"])


def load_pool(path, laws=()):
    """Read a pool that `Pool.save` or `jaxscale fit -o` wrote; classes of `laws` that are not in the catalogue.

    It predicts and plans as it did; the runs, and the back-test row by row, are not in the file.

    Raises:
      InputError: no such file, one without a pool, of another version, or of laws that are not known here.

    Example:
      >>> jsc.load_pool("fit.json").predict_interval(0.8, N=70e9, D=1.4e12)  # doctest: +SKIP
    """
    document, known = read_document(path), {law.__name__: law for law in laws}
    if "pool" not in document:
        raise InputError(f"{path} holds one law and no pool: fit without --law, or with --pool, to have one.")
    fit, found = load_fit(path, known.get(document["law"])), document["pool"]
    with whole(path):
        members = []
        for row in found["laws"]:
            Law = known.get(row["law"]) or law_class(row["law"])
            members.append(Member(row["law"], row["early"], law_of(Law, row["constants"]), row["weight"],
                                  law_of(Law, row["draws"])))
        if len({np.size(x) for member in members for x in constants_of(member.draws).values()}) != 1:
            raise ValueError
        distances = tuple(row | {"to": number(row["to"], math.inf), "errors": {
            name: number(x) for name, x in row["errors"].items()}} for row in found["backtest"])
        return Pool(tuple(members), fit, None, distances, found["width"], found["noise"], found["largest"],
                    found["facts"])


@dataclasses.dataclass(frozen=True, eq=False)
class PoolPlan:
    """The compute-optimal run by a pool: numbers, or arrays [budgets]."""

    compute: np.ndarray
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    interval: dict  # N, D and loss (or compute, for a loss) -> (lower, upper)
    each: dict  # (law, early) -> `Plan`
    lost: tuple  # why members have no best run here
    usable: float  # the share of drawn laws that have an optimum
    level: float

    def __str__(self):
        lines = []
        for i in range(np.size(self.compute)):
            def at(x, i=i):
                return np.ravel(x)[min(i, np.size(x) - 1)]

            lines.append(f"for a loss of {at(self.loss):.4f}" if "compute" in self.interval else
                         f"at {at(self.compute):.3g} FLOPs")
            for name, ends_of in self.interval.items():
                value, low, high = (format(at(x), ".4f" if name == "loss" else ".3e") for x in (getattr(self, name),
                                                                                               *ends_of))
                lines.append(f"{name:<8}{value:>11}   {self.level:.0%} within {low} to {high}")
            for law, plans in by_law((law, one) for (law, _), one in self.each.items()):
                N, ratio, loss = ([at(x) for x in values] for values in zip(
                    *((one.N, one.D / one.N, one.loss) for one in plans), strict=True))
                lines.append(f"  {law:<12}N {span(N, '.2e')}, D/N {span(ratio, '.3g')}, loss {span(loss, '.4f')}")
        if self.lost:
            lines.append(f"{len(self.lost)} of {len(self.lost) + len(self.each)} have no best run here and are left "
                         "out: what can this table tell? (jaxscale design)")
        return "\n".join(lines)

    __repr__ = __str__


def _crossing(C, line, loss):
    """Where a line [k] over C [k] first falls to a loss, between its points in logarithms; infinity: never."""
    C, line = C[np.isfinite(line)], np.minimum.accumulate(line[np.isfinite(line)])
    if not len(line) or line[-1] > loss:
        return math.inf
    return float(np.exp(np.interp(-np.log(loss), -np.log(line), np.log(C))))


def by_law(pairs):
    """(name, values) of pairs (name, value), in order."""
    found = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found.items()


def span(values, form):
    """The least and the largest of some numbers as text."""
    low, high = (format(float(end(values)), form) for end in (np.nanmin, np.nanmax))
    return low if low == high else f"{low} to {high}"


def title(member):
    """A member's name in a back-test."""
    return f"{member.name}, {member.early}"


def weighted_ends(drawn, shares):
    """Quantiles of draws [(draws [k, ...], weight)], each weight shared by those that are numbers; infinity is one."""
    values, weights = [], []
    for draws, weight in drawn:
        able = ~np.isnan(draws.reshape(len(draws), -1)).any(axis=1)
        values.append(draws[able])
        weights.append(np.full(able.sum(), weight / max(able.sum(), 1)))
    return np.quantile(np.concatenate(values), shares, axis=0, weights=np.concatenate(weights), method="inverted_cdf")


def pool(runs, laws=None, *, along="C", early=True, objective=None, drop_bad=False, progress=None):
    """Fit several laws to a table and combine their forecasts, by how they did in back-tests -> `Pool`.

    Args:
      runs: `Runs`, a DataFrame, or the path of a table, with N, D and loss; with S and B too, if there are several B.
      laws: of N and D, or of N, S and B; by default Hoffmann's and Kaplan's, and L(N, S, B) where B varies.
      along: what the back-test cuts: "C" (6 N D), "N" or "D". Intervals were calibrated for C.
      early: fit each law five times: to all rows, with weights C^(1/2) and C, and to the two thirds and the half of
        most compute.
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
    members = tuple(Member(*name, law, float(weight), draws) for name, law, weight, draws in zip(
        tried.names, tried.laws, weights, tried.draws, strict=True))
    tested = validation.backtest_of(earlier, tried.along, tried.observed, [title(member) for member in members],
                                    along, tried.table.row)
    table = tried.table
    facts = {"along": along, "early": early, "points": len(table), "runs": len(np.unique(table.run)),
             "notes": [*table.notes, *tried.lost], "dropped": [list(row) for row in table.dropped]}
    first = next((i for i, member in enumerate(members) if member.name == WITH_BATCH), 0)
    return Pool(members, tried.fits[first], tested, tuple(tested.by_distance()), width, last.noise, last.at, facts)


def backtest(runs, laws=None, *, along="C", early=False, objective=None, drop_bad=False, progress=None):
    """Forecast the larger runs of a table from its smaller ones -> `Backtest`; arguments as for `pool`.

    Example:
      >>> print(jsc.backtest("runs.csv", ["chinchilla"]))  # doctest: +SKIP
    """
    return pool(runs, laws, along=along, early=early, objective=objective, drop_bad=drop_bad,
                progress=progress).backtest
