"""Approach 2 of Hoffmann et al. 2022: the model size of least loss at each of a few computes, by three profiles."""

import dataclasses

import numpy as np

from jaxscale.errors import InputError, nearest
from jaxscale.fitting import check_errors
from jaxscale.laws.base import as_floats
from jaxscale.planning import check_compute, plan
from jaxscale.prediction import predict_each
from jaxscale.recipes.curves import checked_noise, curves_of
from jaxscale.recipes.profiles import minima, noise_about_profile
from jaxscale.recipes.trends import Trend, lines, trend_of_draws
from jaxscale.tables import read_runs

HOW = ("profile", "parabola", "akima")
TOGETHER = np.log(1.1)  # rows whose C are within 10% are of one budget
FEWEST = 4  # sizes of a budget: a parabola takes three
WITHIN = 10.0  # times the best run's N, or that much less: farther off, real losses follow neither curve
DRAWS = 200
FLOOR = 1 / 3  # of the sizes' mean spacing in ln N: the least error of Akima's minimum, by Porian et al. 2024


@dataclasses.dataclass(frozen=True, eq=False)
class IsoFlop:
    """The least loss along lines of equal compute, and the power law of its model sizes.

    Attributes:
        how: "profile", "parabola" or "akima".
        compute: [k] budgets, FLOPs. N, loss: [k, n] the runs of each, parameters and nats, nan where there are fewer.
        best, error: [k] parameters of least loss, and the standard error of their log; least: [k] that loss.
            nan where the minimum is at the edge of the grid, which says only that it lies beyond.
        trend: best = coefficient C^exponent, weighted by 1 / error^2; D = C / 6N, so its exponent is one less that.
        exponents: (alpha, beta) of the profile's curves, else None.
        noise: standard deviation of the log loss about the profile, behind all errors.
        notes: what a reader should know.
    """

    how: str
    compute: np.ndarray
    N: np.ndarray
    loss: np.ndarray
    best: np.ndarray
    error: np.ndarray
    least: np.ndarray
    trend: Trend
    exponents: tuple[float, float] | None
    noise: float
    notes: tuple[str, ...]

    def bias(self, law, compute):
        """What this way of reading makes of `law` on this very grid without noise -> `Bias`.

        Args:
          law: a law of N and D, one or a batch; compute: FLOPs at which the model sizes are compared.
        """
        compute = float(check_compute(compute))
        true, N = np.log(plan(law, compute=self.compute).N), plan(law, compute=compute).N
        law = as_floats(law)
        axis = np.broadcast_shapes(*(np.shape(value) for value in vars(law).values()))
        law = type(law)(*(np.broadcast_to(value, axis)[()] for value in vars(law).values()))
        there = np.isfinite(self.N)
        loss = np.full((*axis, *self.N.shape), np.nan)
        loss[..., there] = predict_each(law, {"N": self.N[there], "D": (self.compute[:, None] / 6 / self.N)[there]})
        x = np.log(self.N)
        read = minima(self.how, x, x, loss.reshape(-1, *self.N.shape)).x.reshape(*axis, -1)
        weights = np.where(np.isfinite(self.best), _weights(self.error), 0.0)
        level, slope = lines(np.log(self.compute), read, weights)
        exact = lines(np.log(self.compute), true, weights)[1]
        return Bias(self.how, compute, (slope - exact)[()], np.exp(level + slope * np.log(compute)) / N)

    def __str__(self):
        lines = [f"approach 2 by {self.how}: N of least loss at C FLOPs, its standard error in ln N",
                 f"{'C':>10} {'runs':>5} {'N':>10} {'error':>7} {'loss':>8}"]
        for C, N, best, error, least in zip(self.compute, self.N, self.best, self.error, self.least, strict=True):
            found = f"{best:10.4g} {error:7.3f} {least:8.4f}" if np.isfinite(best) else "      edge       -        -"
            lines.append(f"{C:10.3g} {np.isfinite(N).sum():5d} {found}")
        return "\n".join([*lines, f"N ~ C^a   {self.trend.exponent:.4f} +- {self.trend.exponent_error:.2g}",
                          *self.notes])


@dataclasses.dataclass(frozen=True, eq=False)
class Bias:
    """How far a way of reading IsoFLOP curves is off for a law without noise, at `compute` FLOPs.

    `exponent`: what is added to the exponent of N ~ C^a; `size`: the factor on N. Arrays for a batch of laws.
    """

    how: str
    compute: float
    exponent: np.ndarray
    size: np.ndarray

    def __str__(self):
        if np.ndim(self.size):
            return f"the bias of approach 2 by {self.how} for {np.size(self.size)} laws"
        return (f"approach 2 by {self.how} on this grid: N {abs(self.size - 1):.1%} too "
                f"{'large' if self.size > 1 else 'small'} at {self.compute:.3g} FLOPs, exponent off by "
                f"{self.exponent:+.4f}, no noise")


def isoflop(runs, budgets=None, how="profile", within=WITHIN, noise=None, draws=DRAWS, seed=0):
    """The model size of least loss at each budget C = 6 N D, and N = coefficient C^a: Hoffmann et al. 2022, approach 2.

    The loss along one budget is read in one of three ways, all in ln N:

    - "profile": L = e + a / N^alpha + b N^beta, e, a and b of each budget, alpha and beta shared by all. It is the form
      of E + A / N^alpha + B / D^beta at C = 6 N D, so its minimum has no bias for that law, wherever the grid lies; and
      a parabola is its limit for small exponents. Chosen unless another is asked for.
    - "parabola": as published. For that law its minimum is off by a factor that depends on the grid's width and place,
      unless alpha = beta and the grid is centred (Czech et al. 2026, arXiv:2603.22339): see `IsoFlop.bias`.
    - "akima": the minimum of Akima's interpolation of ln L, looked for at 25 points between sizes, and a standard error
      of no less than a third of the sizes' spacing (Porian et al. 2024, arXiv:2406.19146). It needs no form.

    Errors are from `draws` tables with the noise of each run drawn anew, by weighted least squares through the minima;
    the trend's are widened where these lie farther from it than that explains.

    Args:
      runs: a table of runs, as `read_runs` takes: N, D or C, and loss. Of several runs of one N at a budget the best
        counts.
      budgets: FLOPs; the rows within 10% of each, and training curves that pass it, are read there. A number of budgets
        spreads them over the compute that the curves share. Without it they are found: where four sizes end within 10%.
        A mid-run point of a decaying schedule is not a finished run.
      within: how many times larger or smaller than the best run of its budget an N may be to count, inf for any. Far
        from the optimum real losses follow neither form: on the sweeps of Porian et al. 2024, up to 1,200-fold wide,
        exponents come within 0.03 of theirs at the factor 10 taken here, and are up to 0.1 off without it.
      noise: standard deviation of the log loss; without it that of the losses about the profile.

    Raises:
      InputError: for a table without budgets of four sizes, or where fewer than two have their minimum inside.

    Example:
      >>> import jaxscale as jsc, numpy as np
      >>> law = jsc.laws.published["hoffmann2022"]
      >>> rows = [{"N": N, "C": C, "loss": float(law(N, C / 6 / N))}
      ...         for C in (1e19, 1e20, 1e21) for N in np.sqrt(C / 120) * np.geomspace(0.1, 10, 7)]
      >>> found = jsc.recipes.isoflop(rows, how="parabola", noise=0.003)
      >>> print(found.bias(law, 1e24))
      approach 2 by parabola on this grid: N 1.9% too large at 1e+24 FLOPs, exponent off by -0.0015, no noise
    """
    if how not in HOW:
        raise InputError(f"how must be one of {', '.join(HOW)}, not {how!r}{nearest(how, HOW) or '.'}")
    check_errors("bootstrap", draws)
    chosen = read_runs(runs).select(("N", "D"))
    if not (isinstance(within, int | float) and within > 1):
        raise InputError(f"within must be a factor above 1 on the best run's N, not {within!r}: 10, or inf for any.")
    points = _points(chosen, budgets, within)
    x, z = np.log(points.N), np.log(points.compute[:, None] / (6 * points.D))
    noise = noise_about_profile(x, z, points.loss) if noise is None else checked_noise(noise)
    found = minima(how, x, z, points.loss[None])
    inside = np.isfinite(found.x[0])
    if inside.sum() < 2:
        raise InputError(f"approach 2 wants two budgets or more whose least loss lies between smaller and larger N; "
                         f"{inside.sum()} of {len(inside)} {'has' if inside.sum() == 1 else 'have'} that: train sizes "
                         "on the far side too.")
    if np.isnan(noise):
        drawn = np.full((draws, len(x)), np.nan)
    else:
        each = np.random.default_rng(seed).standard_normal((draws, chosen.run.max() + 1))
        drawn = minima(how, x, z, points.loss * np.exp(noise * each[:, points.run])).x
    error = _spread(drawn)
    if how == "akima":
        spacing = (np.nanmax(x, axis=1) - np.nanmin(x, axis=1)) / (np.isfinite(x).sum(axis=1) - 1)
        error = np.fmax(error, FLOOR * spacing)
    best, error, least = (np.where(inside, values, np.nan) for values in (np.exp(found.x[0]), error, found.loss[0]))
    weights = _weights(error)
    log_C = np.log(points.compute)
    trend = trend_of_draws(*lines(log_C, np.log(best), weights),
                           *lines(log_C, np.where(inside, drawn, np.nan), weights))
    scatter = _scatter(np.log(best / trend(points.compute)), error)
    trend = dataclasses.replace(trend, covariance=trend.covariance * max(scatter, 1.0) ** 2)
    exponents = tuple(map(float, found.exponents[0])) if how == "profile" else None
    return IsoFlop(how, points.compute, points.N, points.loss, best, error, least, trend, exponents, float(noise),
                   (*chosen.notes, *_notes(how, points, inside, scatter, noise)))


@dataclasses.dataclass(frozen=True, eq=False)
class _Points:
    """The runs of each budget, N rising: compute [k]; N, D, loss [k, n], nan where there are fewer; run [k, n], codes.
    """

    compute: np.ndarray
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    run: np.ndarray


def _points(chosen, budgets, within):
    """The runs at each budget near its best, of one N the best; budgets of fewer than FEWEST sizes are left out."""
    N, D, loss, run = (*(chosen.columns[name] for name in ("N", "D", "loss")), chosen.run)
    curves = curves_of(N, D, loss, run)
    x = curves.x
    last = np.full(run.max() + 1, -np.inf)
    np.maximum.at(last, run, x)
    finished = np.flatnonzero(x == last[run])
    if budgets is None:
        found = [(x[rows].mean(), rows) for rows in _together(x, finished)]
        groups = [(at, N[rows], D[rows], loss[rows], run[rows]) for at, rows in found]
    else:
        groups = []
        for at in _asked(budgets, curves):
            read = curves.at(np.array([at]))[:, 0]
            passing = np.flatnonzero(np.isfinite(read))
            near = finished[(np.abs(x[finished] - at) <= TOGETHER) & ~np.isin(N[finished], curves.N[passing])]
            nearest_row = [rows[np.abs(x[rows] - at).argmin()] for rows in curves.rows]
            of = np.concatenate([np.array(nearest_row, int)[passing], near])
            there = np.exp(at) / (6 * N[of[:len(passing)]])
            groups.append((at, N[of], np.concatenate([there, D[near]]),
                           np.concatenate([np.exp(read[passing]), loss[near]]), run[of]))
    kept = []
    for at, *columns in groups:
        order = np.lexsort((columns[2], columns[0]))
        best = order[np.diff(columns[0][order], prepend=0.0) > 0]
        if len(best):
            far = np.abs(np.log(columns[0][best] / columns[0][best[columns[2][best].argmin()]]))
            best = best[far <= np.log(within) + 1e-9]
        if len(best) >= FEWEST:
            kept.append((at, *(column[best] for column in columns)))
    if len(kept) < 2:
        way_out = ("train several sizes to the same compute, or pass budgets= (--budgets) at which to read training "
                   "curves" if budgets is None else "choose budgets that more sizes reach")
        raise InputError(f"approach 2 wants two budgets or more of {FEWEST} sizes N each, all within a factor of "
                         f"{within:g} of the best, and the table has {len(kept)}: {way_out}.")
    most = max(len(group[1]) for group in kept)
    filled = [np.stack([np.pad(group[i], (0, most - len(group[1])), constant_values=fill) for group in kept])
              for i, fill in ((1, np.nan), (2, np.nan), (3, np.nan), (4, 0))]
    return _Points(np.exp([group[0] for group in kept]), *filled)


def _together(x, rows):
    """The places among `rows` of each budget: neighbours in ln C that lie close, if all of them do."""
    rows = rows[np.argsort(x[rows])]
    groups = np.split(rows, np.flatnonzero(np.diff(x[rows]) > TOGETHER / 2) + 1)
    return [group for group in groups if np.ptp(x[group]) <= 2 * TOGETHER]


def _asked(budgets, curves):
    """ln C of the budgets asked for, rising."""
    if np.ndim(budgets):
        return np.log(np.unique(check_compute(budgets)))
    if not (isinstance(budgets, int | np.integer) and budgets >= 2):
        raise InputError(f"budgets must be FLOPs, a list of two or more, or how many of them, not {budgets!r}: "
                         "budgets=[1e18, 3e18, 1e19], say.")
    grid = np.sort(np.concatenate([curves.x[rows[[0, -1]]] for rows in curves.rows] or [np.zeros(0)]))
    shared = [at for at in grid if len(np.unique([N for N, rows in zip(curves.N, curves.rows, strict=True)
                                                  if curves.x[rows[0]] <= at <= curves.x[rows[-1]]])) >= FEWEST]
    if not shared or shared[0] == shared[-1]:
        raise InputError(f"budgets= as a number wants training curves of {FEWEST} sizes that share a stretch of "
                         "compute, and there are none: name the column of run ids run, or give the budgets.")
    return np.linspace(shared[0], shared[-1], budgets)


def _spread(x):
    """Standard deviation over draws [draws, k], as much larger as there are draws without a minimum."""
    kept = np.isfinite(x).sum(axis=0)
    with np.errstate(all="ignore"):
        mean = np.nansum(x, axis=0) / kept
        return np.where(kept > 1, np.sqrt(np.nansum((x - mean) ** 2, axis=0) / (kept - 1)) * len(x) / kept, np.nan)


def _weights(error):
    """1 / error^2; all the same where no noise is known."""
    if not np.isfinite(error).any():
        return np.ones_like(error)
    return np.where(np.isfinite(error), 1 / np.maximum(error, 1e-9) ** 2, 0.0)


def _scatter(far, error):
    """How many times farther the minima lie from the power law than their errors say; 1 where two tell nothing."""
    there = np.isfinite(far) & (error > 1e-6)
    far = np.where(there & (np.abs(far) > 1e-3), far, 0.0)  # what is nearer than that is no scatter
    freedom = there.sum() - 2
    return float(np.sqrt(np.sum(far**2 * _weights(error)) / freedom)) if freedom > 0 else 1.0


def _notes(how, points, inside, scatter, noise):
    name = f"approach 2 by {how}"
    known = "unknown, pass noise= for errors" if np.isnan(noise) else f"{noise:.2g} in the log loss"
    notes = [f"{name}: {len(inside)} budgets of {np.isfinite(points.N).sum(axis=1).min()} sizes or more; the noise is "
             f"{known}"]
    if not inside.all():
        where = ", ".join(f"{C:.3g}" for C in points.compute[~inside])
        notes.append(f"{name}: left out, as the least loss is at the edge of the grid: C = {where}")
    if scatter > 2:
        notes.append(f"{name}: the minima lie {scatter:.1f} times farther from the power law than the noise explains, "
                     "and its errors are so much wider")
    return tuple(notes)
