"""Approach 1 of Hoffmann et al. 2022: the lower envelope of training curves."""

import dataclasses

import numpy as np

from jaxscale.errors import FitError, InputError
from jaxscale.fitting import check_errors, fit
from jaxscale.laws import Chinchilla
from jaxscale.prediction import evaluate
from jaxscale.recipes.curves import checked_noise, curves_of
from jaxscale.recipes.trends import Trend, lines, trend_of_draws
from jaxscale.runs import Runs
from jaxscale.tables import read_runs

BUDGETS = 1500  # Hoffmann et al. 2022, section 3.1
DRAWS = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Envelope:
    """The lower envelope of training curves, and the power law of its model sizes.

    Attributes:
        compute, N, loss: [m] budgets at which the best model is neither the smallest nor the largest that was trained
            so far; its parameters and its loss, nats.
        trend: N = coefficient C^exponent; D = C / 6N, so its exponent is one less the other.
        noise: standard deviation of the log loss from run to run, behind the trend's errors.
        notes: what a reader should know.
    """

    compute: np.ndarray
    N: np.ndarray
    loss: np.ndarray
    trend: Trend
    noise: float
    notes: tuple[str, ...]

    def __str__(self):
        return "\n".join([f"approach 1: the envelope of {len(np.unique(self.N))} sizes over {self.compute[0]:.3g} to "
                          f"{self.compute[-1]:.3g} FLOPs",
                          f"N ~ C^a   {self.trend.exponent:.4f} +- {self.trend.exponent_error:.2g}", *self.notes])


def envelope(runs, noise=None, draws=DRAWS, seed=0):
    """The model size of least loss at each compute, from training curves: approach 1 of Hoffmann et al. 2022.

    At 1,500 log-spaced budgets C = 6 N D the curve of least loss is found, and N = coefficient C^a is fitted to the
    winners in logs. The curves are interpolated within their own range, made monotone. A curve is a run of three rows
    or more, or three finished runs of one N. A budget counts only where a smaller and a larger model than the winner
    were trained to it: elsewhere the winner is an end of the table, which bends the power law.

    **A mid-run point of a decaying schedule is not a finished run**: its loss is too high, and that of the longest runs
    most. Approach 1 is meant for a constant learning rate, or for finished runs.

    The winners are a staircase of as many steps as there are sizes, so the 1,500 points are far from independent. The
    errors are from `draws` tables in which all of a run's losses move together by its noise. (Resampled runs would
    leave out sizes, which a staircase of few steps cannot spare.) They hold no error from the width of the steps.

    Args:
      runs: a table of runs, as `read_runs` takes: N, D and loss, and a run column for trajectories.
      noise: standard deviation of a run's log loss by its seed and tuning, 0.003 say; without it, that of the runs'
        residuals about Chinchilla's law.

    Raises:
      InputError: for fewer than three sizes with a curve, or where fewer than two of them win between others.

    Example:
      >>> import jaxscale as jsc, numpy as np
      >>> law = jsc.laws.published["hoffmann2022"]
      >>> rows = [{"run": N, "N": N, "D": D, "loss": float(law(N, D))}
      ...         for N in np.geomspace(1e7, 1e10, 13) for D in np.geomspace(N, 200 * N, 30)]
      >>> print(round(jsc.recipes.envelope(rows, noise=0.001).trend.exponent, 2))  # the law's: 0.28 / 0.62 = 0.45
      0.46
    """
    check_errors("bootstrap", draws)
    chosen = read_runs(runs).select(("N", "D"))
    N, D, loss = (chosen.columns[name] for name in ("N", "D", "loss"))
    curves = curves_of(N, D, loss, chosen.run)
    sizes = len(np.unique(curves.N))
    if sizes < 3:
        raise InputError(f"approach 1 wants training curves of at least 3 sizes N, three rows of one run or three "
                         f"finished runs of one N each; the table has {sizes}: name the column of run ids run, or pass "
                         "jaxscale.read_runs(table, run=...).")
    x = np.linspace(min(curves.x[rows[0]] for rows in curves.rows), max(curves.x[rows[-1]] for rows in curves.rows),
                    BUDGETS)
    winner, least = _winners(curves, x, curves.y)
    steps = len(np.unique(winner[np.isfinite(winner)]))
    if steps < 2:
        raise InputError(f"approach 1 wants at least 2 sizes that are best between a smaller and a larger one trained "
                         f"to the same compute, and {steps} of {sizes} {'is' if steps == 1 else 'are'}: train more "
                         "sizes to the same compute.")
    noise = run_noise(N, D, loss, chosen.run) if noise is None else checked_noise(noise)
    each = np.random.default_rng(seed).standard_normal((0 if np.isnan(noise) else draws, chosen.run.max() + 1))
    drawn = np.array([_winners(curves, x, curves.y + noise * of_runs[chosen.run])[0] for of_runs in each])
    drawn = drawn.reshape(len(each), len(x))
    trend = trend_of_draws(*lines(x, winner, np.ones_like(x)), *lines(x, drawn, np.ones_like(x)))
    kept = np.isfinite(winner)
    known = "unknown, pass noise= for errors" if np.isnan(noise) else f"{noise:.2g} in the log loss"
    notes = (*chosen.notes, f"approach 1: {steps} of {sizes} sizes are best between others, at {kept.mean():.0%} of "
                            f"the compute; the noise is {known}")
    return Envelope(np.exp(x[kept]), np.exp(winner[kept]), np.exp(least[kept]), trend, float(noise), notes)


def _winners(curves, x, y):
    """ln N and ln loss [m] of the best curve at ln C [m]; nan where that is of the smallest or largest N there."""
    losses = curves.at(x, y)
    there = np.isfinite(losses)
    sizes = np.where(there, curves.N[:, None], np.nan)
    best = np.argmin(np.where(there, losses, np.inf), axis=0)
    N, least = curves.N[best], losses[best, np.arange(len(x))]
    inner = (N > np.fmin.reduce(sizes)) & (N < np.fmax.reduce(sizes))
    return np.where(inner, np.log(N), np.nan), np.where(inner, least, np.nan)


def run_noise(N, D, loss, run):
    """Standard deviation of a run's mean log residual about Chinchilla's law, which is fitted; nan where it cannot be.
    """
    try:
        found = fit(Chinchilla, Runs.from_columns({"N": N, "D": D, "loss": loss}, run=run), errors=None)
    except (FitError, InputError):
        return np.nan
    return noise_about(found.law, N, D, loss, run)


def noise_about(law, N, D, loss, run):
    """The same about a law that was fitted, robustly. It holds the law's misfit; nan unless runs outnumber constants.
    """
    residuals = np.log(loss / evaluate(law, {"N": N, "D": D}))
    means = np.bincount(run, residuals) / np.bincount(run)
    spare = len(means) - len(law.constants)
    within = np.quantile(np.abs(means), 0.683)  # of a normal, one standard deviation
    return float(within * np.sqrt(len(means) / spare)) if spare > 0 else np.nan
