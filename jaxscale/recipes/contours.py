"""The contour scan of Su et al. 2024 (section 3): steps to levels of the loss at several batch sizes, and B_crit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.errors import InputError
from jaxscale.laws import CriticalBatchSize
from jaxscale.recipes.curves import falling
from jaxscale.tables import read_runs
from jaxscale.uncertainty import ends, resampled_counts

LEVELS = 12
SPAN = 0.02  # of the loss, that the levels spread over at least: alpha_B is a slope in log L
FLAGGED = 1.05  # tokens to a level over those of the best batch, at smaller batches: the law has them fall


@dataclasses.dataclass(frozen=True, eq=False)
class ContourScan:
    """Steps and tokens to levels of the loss, at several batch sizes of one model, and the line through them.

    Attributes:
        levels: [k] losses, falling.
        batch, steps: [r] the batch size of each run, [k, r] its steps to each level (nan: never, or flagged).
        reached: [k, r] the same with those that are flagged.
        flagged: [k, r] where a batch below the best one needs more tokens again, which no S_min and E_min can do.
        S_min, E_min: [k] fewest steps, fewest tokens. B_crit: [k] = E_min / S_min, tokens.
        law: `CriticalBatchSize` through the levels, log B_crit = log B_star - log(L) / alpha_B (Su et al. Eq 3.12).
        notes: what a reader should know.
    """

    levels: np.ndarray
    batch: np.ndarray
    steps: np.ndarray
    reached: np.ndarray
    flagged: np.ndarray
    S_min: np.ndarray
    E_min: np.ndarray
    B_crit: np.ndarray
    law: CriticalBatchSize
    notes: tuple[str, ...]

    @property
    def noise_scale(self):
        """[k] the local dE_min/dS_min, what a gradient noise scale measures: by a parabola of log E_min in log S_min.

        Neighbouring levels share their runs' noise, so that their own differences say little.
        """
        x, y = np.log(self.S_min), np.log(self.E_min)
        return self.B_crit * np.polyval(np.polyder(np.polyfit(x - x.mean(), y, min(2, len(x) - 1))), x - x.mean())

    def bootstrap(self, draws=1000, seed=0):
        """The scan of `draws` tables in which whole runs were resampled: its arrays get a leading axis [draws].

        The levels share their runs, so their errors go together. Runs get Dirichlet weights below 30 runs.
        """
        counts = resampled_counts(len(self.batch), draws, seed)
        S_min, E_min = _lines(self.batch, self.steps, counts)
        B_crit = E_min / S_min
        return dataclasses.replace(self, S_min=S_min, E_min=E_min, B_crit=B_crit, law=_through(self.levels, B_crit))

    def interval(self, level=0.8, draws=1000, seed=0):
        """Two scans: the lower and the upper ends of the bootstrap's central interval of each estimate by itself."""
        drawn = self.bootstrap(draws, seed)
        return tuple(
            dataclasses.replace(
                self, **{name: np.quantile(getattr(drawn, name), at, axis=0) for name in ("S_min", "E_min", "B_crit")},
                law=jax.tree.map(lambda values, at=at: float(np.quantile(values, at)), drawn.law))
            for at in ends(level))

    def __str__(self):
        low, high = self.interval(0.8)
        lines = ["contour scan: S = S_min + E_min / B at fixed loss; 80% intervals from resampled runs",
                 f"{'loss':>8} {'runs':>5} {'S_min':>10} {'E_min':>10} {'B_crit':>10}   80% interval"]
        for i, level in enumerate(self.levels):
            lines.append(f"{level:8.4f} {np.isfinite(self.steps[i]).sum():5d} {self.S_min[i]:10.4g} "
                         f"{self.E_min[i]:10.4g} {self.B_crit[i]:10.4g}   {low.B_crit[i]:.3g} .. {high.B_crit[i]:.3g}")
        for name in self.law.constants:
            value, *two = (getattr(law, name) for law in (self.law, low.law, high.law))
            lines.append(f"{name} = {value:.4g}   {two[0]:.3g} .. {two[1]:.3g}")
        return "\n".join([*lines, *self.notes])


def contour(B, S):
    """(S_min, E_min) of S = S_min + E_min / B through the steps S to one loss at batch sizes B, in log residuals.

    Su et al. 2024, Eq 3.10 as a line, both ends positive. Plain least squares lets the many steps of the smallest batch
    decide alone.

    Raises:
        InputError: for B and S that are not two or more positive pairs with different B.

    >>> from jaxscale import recipes
    >>> S_min, E_min = recipes.contour([1e4, 1e5, 1e6], [2e4, 1.1e4, 1.01e4])
    >>> print(f"{S_min:.4g} steps, {E_min:.4g} tokens")
    1e+04 steps, 1e+08 tokens
    """
    try:
        B, S = (np.asarray(values, np.float64) for values in (B, S))
    except (TypeError, ValueError):
        raise InputError("contour wants numbers B and S; it got something else: pass two lists.") from None
    fit_for_a_line = B.ndim == 1 and B.shape == S.shape and np.all((B > 0) & (S > 0) & np.isfinite(B * S))
    if not fit_for_a_line or len(np.unique(B)) < 2:
        raise InputError(f"contour wants positive steps S at two or more different batch sizes B, one S each; it got "
                         f"B = {B.tolist()} and S = {S.tolist()}: drop what never reached the loss.")
    S_min, E_min = _lines(B, S[None], np.ones((1, len(B))))
    return float(S_min[0, 0]), float(E_min[0, 0])


def contour_scan(runs, levels=LEVELS):
    """Steps, tokens and critical batch size at levels of the loss, from one model's runs at several batch sizes.

    Each run's steps to a level are read off its loss, made monotone (isotonic regression of log L) and interpolated in
    log S. At each level S = S_min + E_min / B (Su et al. 2024, Eq 3.10 as a line) is fitted to log S, with both
    positive; B_crit = E_min / S_min, and B_crit = B_star / L^(1/alpha_B) (Eq 3.12) goes through the levels. A batch
    below the best one that needs 5% more tokens than it is flagged and left out.

    Args:
        runs: a table of runs, as `read_runs` takes: N, S, B, loss and a run column. Drop the warm-up before.
        levels: losses, or how many to spread evenly in log where most batch sizes pass, over 2% of the loss or more.

    Raises:
        InputError: for several N, fewer than 3 batch sizes, or levels that fewer than 3 batch sizes reach.

    >>> import jaxscale as jsc, numpy as np
    >>> law = jsc.laws.published["su2024-c4"]
    >>> rows = [{"run": B, "N": 1e7, "B": B, "S": S, "loss": float(law(1e7, S, B))}
    ...         for B in (1e5, 4e5, 2e6, 1e7) for S in np.geomspace(2e3, 2e5, 40)]
    >>> print(f"{jsc.recipes.contour_scan(rows).law.B_star:.2g}")
    1.7e+08
    """
    chosen = read_runs(runs).select(("N", "S", "B"))
    N, S, B, loss = (np.asarray(chosen.columns[name]) for name in ("N", "S", "B", "loss"))
    if len(np.unique(N)) > 1:
        sizes = ", ".join(f"{value:g}" for value in np.unique(N)[:6])
        raise InputError(f"a contour scan wants runs of one N, the table has {sizes}: choose one of them.")
    batch, curves = _curves(chosen.run, S, B, loss)
    if not len(batch):
        raise InputError("a contour scan wants the trajectories of runs, three rows of one batch size or more each; no "
                         "run of the table has so many: give the losses along each run, and name the column of run ids "
                         "with run= (--column run=...).")
    if len(np.unique(batch)) < 3:
        sizes = ", ".join(f"{value:g}" for value in np.unique(batch))
        raise InputError(f"a contour scan wants trajectories of at least 3 batch sizes B, the table has {sizes}: "
                         "S_min, E_min and a check of the line take three.")
    levels = _levels(levels, batch, curves)
    every = np.stack([_steps_to(levels, curve) for curve in curves], axis=1)
    flagged = _flagged(batch, every)
    steps = np.where(flagged, np.nan, every)
    reached = np.array([len(np.unique(batch[np.isfinite(row)])) for row in steps])
    if np.any(reached < 3):
        place = int(np.argmin(reached))
        low, high = np.exp([max(curve[0][0] for curve in curves), min(curve[0][-1] for curve in curves)])
        raise InputError(f"a contour wants at least 3 batch sizes at each level, the loss {levels[place]:.5g} has "
                         f"{reached[place]} (those below the best batch do not count): choose levels near "
                         f"{min(low, high):.4g} to {max(low, high):.4g}.")
    S_min, E_min = _lines(batch, steps, np.ones((1, len(batch))))
    B_crit = E_min / S_min
    law = jax.tree.map(lambda values: float(values[0]), _through(levels, B_crit))
    return ContourScan(levels, batch, steps, every, flagged, S_min[0], E_min[0], B_crit[0], law,
                       _notes(levels, batch, flagged, B_crit[0]))


def _curves(run, S, B, loss):
    """Each run's batch size, and its (log loss rising, log S falling): blocks of an isotonic regression."""
    batch, curves = [], []
    for code in np.unique(run):
        rows = np.flatnonzero(run == code)
        if len(rows) < 3 or len(np.unique(B[rows])) > 1:
            continue  # a curve takes three points, at one batch size
        rows = rows[np.argsort(S[rows])]
        middle, level = falling(np.log(S[rows]), np.log(loss[rows]))
        batch.append(B[rows[0]])
        curves.append((level[::-1], middle[::-1]))
    return np.array(batch), curves


def _steps_to(levels, curve):
    """Steps to each level by monotone cubic interpolation; nan outside the curve."""
    from scipy.interpolate import PchipInterpolator

    if len(curve[0]) < 2:
        return np.full(len(levels), np.nan)
    return np.exp(PchipInterpolator(*curve, extrapolate=False)(np.log(levels)))


def check_levels(levels):
    """`levels` as losses, falling, or as how many. Raises InputError for what is neither."""
    try:
        asked = np.unique(np.asarray(levels, np.float64))[::-1]
    except (TypeError, ValueError):
        asked = np.zeros(1)
    if not (np.all(asked > 0) and (len(asked) >= 2 if np.ndim(levels) else asked[0] >= 2 and asked[0] % 1 == 0)):
        raise InputError(f"levels= must be two or more positive losses, or how many to choose, not {levels!r}: a law "
                         "of the critical batch size takes two.")
    return asked if np.ndim(levels) else int(asked[0])


def _levels(levels, batch, curves):
    asked = check_levels(levels)
    if np.ndim(asked):
        return asked
    ends = np.array([curve[0][[0, -1]] for curve in curves])
    sizes = np.unique(batch)
    low, high = (np.array([by(ends[batch == B, end]) for B in sizes]) for by, end in ((np.min, 0), (np.max, 1)))
    ranges = (_passed(low, high, count) for count in range(len(sizes), 2, -1))
    low, high = next((found for found in ranges if found[1] - found[0] > SPAN), (None, None))
    if low is None:
        raise InputError(f"a contour scan wants losses over a range of {SPAN:.0%} or more that at least 3 batch sizes "
                         "pass through, and there is none: pass levels=, or longer runs.")
    return np.exp(np.linspace(high, low, asked + 2)[1:-1])


def _passed(low, high, count):
    """The widest range of log losses that lies in `count` of the ranges low to high [b]; of width 0 if none does."""
    cuts = np.unique([low, high])
    inside = [np.sum((low <= one) & (two <= high)) >= count for one, two in zip(cuts, cuts[1:], strict=False)]
    turns = cuts[np.flatnonzero(np.diff([False, *inside, False]))]
    return max(zip(turns[::2], turns[1::2], strict=True), key=lambda ends: ends[1] - ends[0], default=(0.0, 0.0))


def _flagged(batch, steps):
    """[k, r] batches below the one of fewest tokens that need FLAGGED times its tokens or more."""
    tokens = np.where(np.isfinite(steps), steps * batch, np.inf)
    best = np.argmin(tokens, axis=1)
    fewest = tokens[np.arange(len(best)), best]
    return (batch < batch[best][:, None]) & (tokens > FLAGGED * fewest[:, None]) & np.isfinite(steps)


def _lines(batch, steps, counts):
    """S_min and E_min [draws, k], for runs counted `counts` [draws, r] times; nan steps do not count."""
    used = np.isfinite(steps)
    with jax.enable_x64(True):
        critical, fewest = _fit_lines(*map(jnp.asarray, (np.log(batch), np.log(np.where(used, steps, 1.0)),
                                                         used.astype(np.float64), counts)))
        return np.exp(fewest), np.exp(np.add(fewest, critical))


def _through(levels, B_crit):
    """The law log B_crit = log B_star - log(L) / alpha_B by least squares, for B_crit [draws, k]."""
    x, y = np.log(levels), np.log(B_crit)
    slope = (y @ (x - x.mean())) / np.sum((x - x.mean()) ** 2)
    return CriticalBatchSize(B_star=np.exp(y.mean(axis=1) - slope * x.mean()), alpha_B=-1 / slope)


@jax.jit
def _fit_lines(log_B, log_S, used, counts):
    """log B_crit and log S_min that minimise the squares of log S - log(S_min + E_min / B).

    S_min follows in closed form, so one unknown is left: a grid over log B_crit, then ever finer grids around its best.
    """

    def one(log_S, weights):
        weights = weights / weights.sum()

        def residuals(critical):
            left = log_S - jnp.logaddexp(0.0, critical - log_B)
            return left, weights @ left

        def spread(critical):
            left, mean = residuals(critical)
            return weights @ (left - mean) ** 2

        def narrow(_, ends):
            grid = jnp.linspace(*ends, 65)
            best = jnp.argmin(jax.vmap(spread)(grid))
            return grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, 64)]

        far = jnp.log(1e4)
        low, high = jax.lax.fori_loop(0, 9, narrow, (log_B.min() - far, log_B.max() + far))
        critical = (low + high) / 2
        return critical, residuals(critical)[1]

    over_levels = jax.vmap(lambda log_S, used, count: one(log_S, used * count), in_axes=(0, 0, None))
    return jax.vmap(over_levels, in_axes=(None, None, 0))(log_S, used, counts)


def _notes(levels, batch, flagged, B_crit):
    notes = []
    if flagged.any():
        small = np.unique(batch[flagged.any(axis=0)])
        notes.append(f"flagged and left out at {np.sum(flagged.any(axis=1))} of {len(levels)} levels, as they need "
                     f"more tokens than a larger batch: B = {', '.join(f'{value:g}' for value in small)}")
    if batch.max() < B_crit.max():
        notes.append(f"the largest batch {batch.max():g} is below B_crit = {B_crit.max():.3g}: S_min is extrapolated")
    if batch.min() > B_crit.min():
        notes.append(f"the smallest batch {batch.min():g} is above B_crit = {B_crit.min():.3g}: E_min is extrapolated")
    return tuple(notes)
