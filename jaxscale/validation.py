"""Back-tests: a forecast of the larger runs of a table from its smaller ones, and how far it was off.

Several forecasts, by several laws, are combined into one: weights, a centre, and a standard deviation of ln loss

    sd = width sqrt((a noise)^2 + (b between)^2 + (c ln d)^2) d^g

noise: of the rows about a law, between: the forecasts' standard deviation about their mean, d: the distance, how many
times the compute (or N, or D) of the largest run that was fitted. `width` is what the table's own back-test says,
shrunk to 1 where it is short. The numbers a, b, c and g (`Scale`) were chosen on real tables by
`benchmarks/calibration.py`, which shows how often such intervals hold what they should on tables not used for that.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from jaxscale.uncertainty import student

BELIEF = 4.0  # back-tests that the experience of other tables counts as, for the width
RECENT = 2  # of a table's own, those with the largest cuts count: the others are of ever smaller runs
EQUAL = 2.0  # back-tests that equal weights of the laws count as
FARTHEST = np.log(2.0)  # a law that is further from the median of all counts as that far: some fits run off
LEAST_COVERED = 0.6  # by intervals of 80%, or it is said
BUCKETS = (1.0, 3.0, 10.0, 30.0, np.inf)  # of the distance, in reports


class Scale(NamedTuple):
    """How wide errors are at a distance; the values are the experience of real tables."""

    a: float = 0.85
    b: float = 0.7
    c: float = 0.006
    g: float = 0.0
    usual: float = 0.74  # geometric mean, over back-tests, of the mean of |error| / sd at width 1


SCALE = Scale()


class Cut(NamedTuple):
    """What was forecast from the rows up to a cut."""

    at: float  # the largest C, N or D that was fitted
    forecasts: np.ndarray  # [laws, n] ln loss of every row, NaN by laws that could not be fitted
    noise: float  # standard deviation of the fitted rows' ln loss about a law
    draws: np.ndarray | None = None  # [laws, draws, n] the same by laws fitted to resampled runs

    def combined(self, rows, along, weights, width=1.0, scale=SCALE):
        """The forecasts of some rows [n] as one -> `Combined`."""
        forecasts = self.forecasts if self.draws is None else self.draws
        return combine(forecasts[..., rows], weights, self.noise, along[rows] / self.at, width, scale)


class Combined(NamedTuple):
    """Forecasts of ln loss as one."""

    centre: np.ndarray  # [n]
    sd: np.ndarray  # [n]


def combine(forecasts, weights, noise, distance, width=1.0, scale=SCALE):
    """Forecasts [laws, n] or [laws, draws, n] by the laws' weights [laws], at distances [n] -> `Combined`.

    A law's weight is shared by its draws; those of NaN have no say.
    """
    forecasts = forecasts.reshape(len(weights), -1, forecasts.shape[-1])
    able = np.isfinite(forecasts).all(axis=2)
    share = weights[:, None] * able / np.maximum(able.sum(axis=1, keepdims=True), 1)
    forecasts, weights = forecasts[able], share[able] / share.sum()
    middle = np.median(forecasts, axis=0)
    forecasts = np.clip(forecasts, middle - FARTHEST, middle + FARTHEST)
    centre = weights @ forecasts
    between = np.sqrt(weights @ (forecasts - centre) ** 2)
    distance = np.maximum(distance, 1.0)
    squares = (scale.a * noise) ** 2 + (scale.b * between) ** 2 + (scale.c * np.log(distance)) ** 2
    return Combined(centre, width * np.sqrt(squares) * distance**scale.g)


def judge(cuts, along, observed, laws, scale=SCALE, weights=None):
    """Weights of the laws [laws] and the width, from cuts in rising order and what was observed up to now.

    Args:
      cuts: `Cut`s whose forecasts of later rows are known to be right or wrong by now.
      along: [n] C, N or D of the rows. observed: [n] ln loss, NaN of rows that are not known yet.
      laws: how many there are. weights: [laws], where they are known and the width alone is wanted.
    """
    tested = [cut for cut in cuts if np.any(ahead(cut, along) & np.isfinite(observed))]
    rows = [ahead(cut, along) & np.isfinite(observed) for cut in tested]
    if not tested:
        return np.full(laws, 1 / laws) if weights is None else weights, 1.0
    if weights is None:
        errors = np.array([np.mean(np.abs(observed[at] - cut.forecasts[:, at]), axis=1)
                           for cut, at in zip(tested, rows, strict=True)])
        # Where a law could not be fitted below a cut it counts as one like the others there.
        errors = np.where(np.isnan(errors), np.nanmean(errors, axis=1, keepdims=True), errors).mean(axis=0)
        weights = 1 / np.maximum(EQUAL * errors.mean() + len(tested) * errors, 1e-12)
        weights /= weights.sum()
    found = []
    for cut, at in [*zip(tested, rows, strict=True)][-RECENT:]:
        both = cut.combined(at, along, weights, scale=scale)
        found.append(np.log(np.maximum(np.mean(np.abs(observed[at] - both.centre) / both.sd), 1e-6) / scale.usual))
    return weights, float(np.exp(np.sum(found) / (len(found) + BELIEF)))


def ahead(cut, along):
    """Rows [n] beyond a cut."""
    return along > cut.at * (1 + 1e-9)


@dataclasses.dataclass(frozen=True, eq=False)
class Backtest:
    """Forecasts of a table's larger runs from its smaller ones, one row a forecast; `print` shows them by distance.

    Each was made as the forecast of an unknown run is: from the rows up to the cut alone, also its weights and width.
    """

    along: str  # what the cuts are in: C, N or D
    laws: tuple[str, ...]
    cut: np.ndarray  # [k] the largest of the fitted rows
    row: np.ndarray  # [k] number of the row in the table
    distance: np.ndarray  # [k] how many times the cut
    observed: np.ndarray  # [k] loss
    forecast: np.ndarray  # [k] loss
    sd: np.ndarray  # [k] of ln loss
    each: np.ndarray  # [k, laws] every law's own forecast of the loss

    def __len__(self):
        return len(self.cut)

    @property
    def error(self):
        """ln of observed over forecast [k]: above 0 where the run turned out worse."""
        return np.log(self.observed / self.forecast)

    def interval(self, level=0.8):
        """Lower and upper ends [k] of the forecasts' intervals, in nats."""
        half = student(level, math.inf) * self.sd
        return self.forecast * np.exp(-half), self.forecast * np.exp(half)

    def by_distance(self, level=0.8):
        """A dict for each of the distances 1-3, 3-10, 10-30 and beyond that has forecasts.

        points and cuts; bias and error, the mean of ln(observed / forecast) and of its size; coverage of the intervals
        of a level; width, of ln loss; score, the interval's (Gneiting & Raftery 2007, Eq 43), width + 2 / (1 - level)
        times what is missed; errors, by law.
        """
        found = []
        for low, high in zip(BUCKETS, BUCKETS[1:], strict=False):
            at = (self.distance > low) & (self.distance <= high)
            if not at.any():
                continue
            error, half = self.error[at], student(level, math.inf) * self.sd[at]
            missed = np.maximum(np.abs(error) - half, 0)
            each = np.abs(np.log(self.observed[at, None] / self.each[at]))
            told = np.isfinite(each).sum(axis=0)
            each = np.where(told > 0, np.nansum(each, axis=0) / np.maximum(told, 1), np.nan)
            found.append({
                "from": low, "to": high, "points": int(at.sum()), "cuts": len(np.unique(self.cut[at])),
                "bias": float(error.mean()), "error": float(np.abs(error).mean()),
                "coverage": float(np.mean(missed == 0)), "width": float(2 * half.mean()),
                "score": float(np.mean(2 * half + 2 / (1 - level) * missed)),
                "errors": dict(zip(self.laws, each.tolist(), strict=True))})  # NaN: not fitted below any cut
        return found

    def to_frame(self):
        """A DataFrame, one row a forecast."""
        from jaxscale.tables import frame

        low, high = self.interval()
        return frame({self.along + "_cut": self.cut, "row": self.row, "distance": self.distance,
                      "observed": self.observed, "forecast": self.forecast, "low": low, "high": high,
                      **dict(zip(self.laws, self.each.T, strict=True))})

    def __str__(self):
        return shown(self.by_distance(), self.along)

    __repr__ = __str__


def backtest_of(cuts, along, observed, names, quantity, rows, scale=SCALE, judge=judge):
    """The `Backtest` that cuts make, in rising order; along, observed (ln loss) and rows are the table's [n].

    judge: what weighs the laws below each cut, of the same arguments as `judge`.
    """
    found = []
    for i, cut in enumerate(cuts):
        at = ahead(cut, along)
        if not at.any():
            continue
        weights, width = judge(cuts[:i], along, np.where(at, np.nan, observed), len(names), scale)
        both = cut.combined(at, along, weights, width, scale)
        found.append((np.full(at.sum(), cut.at), rows[at], along[at] / cut.at, np.exp(observed[at]),
                      np.exp(both.centre), both.sd, np.exp(cut.forecasts[:, at]).T))
    empty = [np.zeros(0)] * 6 + [np.zeros((0, len(names)))]
    return Backtest(quantity, tuple(names), *(map(np.concatenate, zip(*found, strict=True)) if found else empty))


def shown(rows, along):
    """What `Backtest.by_distance` gives, as text."""
    if not rows:
        return f"no back-test: too few runs lie below any cut in {along}"
    lines = [f"{'distance':>10}{'rows':>7}{'cuts':>6}{'missed by':>11}{'bias':>8}{'in 80%':>8}{'width':>8}"]
    lines += [f"{far(row):>10}{row['points']:>7}{row['cuts']:>6}{row['error']:>11.2%}{row['bias']:>+8.1%}"
              f"{row['coverage']:>8.0%}{row['width']:>8.1%}" for row in rows]
    return "\n".join(lines)


def caution(rows):
    """A sentence for intervals of 80% that held too little of what `Backtest.by_distance` gives, else None."""
    short = [f"{row['coverage']:.0%} at {far(row)}" for row in rows if row["coverage"] < LEAST_COVERED]
    return f"Caution: intervals of 80% made that way held only {' and '.join(short)} of the table's own rows." if (
        short) else None


def far(row):
    """A distance of `Backtest.by_distance` as text."""
    return f"{row['from']:g}-{row['to']:g}x" if np.isfinite(row["to"]) else f"over {row['from']:g}x"
