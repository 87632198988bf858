"""What the steps of Su et al. 2024 (section 3) take for granted, tested on the table and reported."""

import dataclasses

import numpy as np

from jaxscale.errors import InputError
from jaxscale.tables import read_runs
from jaxscale.uncertainty import ends

APART = 0.005  # of the loss, that test may leave training behind by for each doubling of the steps
STATIONARY = 0.05  # steps at the largest batch over S_min, less one
TRAINING = ("loss_train", "train_loss", "training_loss")


@dataclasses.dataclass(frozen=True)
class Check:
    """What was assumed, whether it `holds` (None: the table cannot tell), and a sentence with the numbers."""

    assumed: str
    holds: bool | None
    says: str

    def __str__(self):
        word = {True: "holds", False: "DOES NOT HOLD", None: "not known"}[self.holds]
        return f"{self.assumed}: {word}; {self.says}"


def converged(sizes):
    """Whether the runs of `converged_sizes` have converged -> `Check`.

    >>> import jaxscale as jsc
    >>> found = jsc.recipes.converged_sizes([{"N": 1e6, "loss": 4.2}, {"N": 1e7, "loss": 3.5}])
    >>> print(jsc.recipes.converged(found))
    converged runs: not known; one row a run shows no slope
    """
    known = sizes.fall[~np.isnan(sizes.fall)]
    if not len(known):
        return Check("converged runs", None, "one row a run shows no slope")
    return Check("converged runs", bool(np.all(sizes.converged)),
                 f"twice the steps would take {known.min():.1%} to {known.max():.1%} off the final losses, "
                 f"{sizes.tolerance:.1%} is allowed")


def endless_data(runs, train=None):
    """Whether test and training loss stay together, so that the data are endless for these models -> `Check`.

    The log of test over training loss is followed over the last half of each run's steps (in log S). Its mean growth
    for a doubling of the steps, over all runs, must be below 0.5% by two standard errors; None where it is too near.

    Args:
        runs: a table of runs, as `read_runs` takes: loss, S (or D), a column of training losses and a run column.
        train: that column; without it loss_train, train_loss or training_loss.

    Raises:
        InputError: for a `train` that the table has not.

    >>> import jaxscale as jsc
    >>> rows = [{"run": 0, "S": S, "loss": 4 - 0.1 * i, "loss_train": 4 - 0.3 * i} for i, S in enumerate((1, 2, 4, 8))]
    >>> print(jsc.recipes.endless_data(rows).holds)
    False
    """
    assumed = "relatively infinite data"
    chosen = read_runs(runs)
    if train is None:
        train = next((name for name in TRAINING if name in chosen.columns), None)
        if train is None:
            return Check(assumed, None, "the table has no column of training losses (loss_train, say)")
    progress = next((name for name in ("S", "D") if chosen.has(name)), None)
    if progress is None:
        return Check(assumed, None, "the table has neither steps nor tokens along a run")
    chosen = chosen.select((train, progress), drop_bad=True)
    gap = np.log(chosen.columns["loss"] / chosen.columns[train])
    done = np.log(chosen.columns[progress])
    growth = []
    for code in np.unique(chosen.run):
        rows = np.flatnonzero(chosen.run == code)
        late = rows[done[rows] >= (done[rows].min() + done[rows].max()) / 2]
        if len(late) > 1 and np.ptp(done[late]) > 0:
            growth.append(np.polyfit(done[late] - done[late].mean(), gap[late], 1)[0] * np.log(2))
    if not growth:
        return Check(assumed, None, "no run has rows enough to follow its test and training loss")
    mean = float(np.mean(growth))
    error = float(np.std(growth, ddof=1) / np.sqrt(len(growth))) if len(growth) > 1 else 0.0
    spread = f" (standard error {error:.2%})" if error else ""
    says = (f"over {len(growth)} runs test loss leaves training loss behind by {mean:+.2%}{spread} for each doubling "
            f"of {progress}, {APART:.1%} is allowed")
    return Check(assumed, None if abs(mean - APART) < 2 * error else mean < APART, says)


def endless_batch(scan, batch=None, loss=None):
    """Whether a larger batch than the largest would save steps no more -> `Check`.

    At batch B steps are 1 + B_crit(L) / B times S_min (Su et al. 2024, Eq 3.10); curves are stationary in B where that
    is within 5%. B_crit is that of a `contour_scan`, and so of its model's runs, at its levels and, by the law through
    them, at a `loss` that the large batch was trained to.

    Args:
        scan: what `contour_scan` found. batch: tokens, by default its largest.
        loss: the lowest loss of the runs of that batch, by default that of the lowest level.

    Raises:
        InputError: for a batch or a loss that is not positive.

    >>> import jaxscale as jsc, numpy as np
    >>> law = jsc.laws.published["su2024-c4"]
    >>> rows = [{"run": B, "N": 1e7, "B": B, "S": S, "loss": float(law(1e7, S, B))}
    ...         for B in (1e4, 1e5, 5e5, 2e6) for S in np.geomspace(2e3, 2e5, 40)]
    >>> print(jsc.recipes.endless_batch(jsc.recipes.contour_scan(rows)).holds)
    False
    """
    for name, value in (("batch", batch), ("loss", loss)):
        if value is not None and not (isinstance(value, int | float | np.number) and 0 < value < np.inf):
            raise InputError(f"{name} must be a positive number, not {value!r}.")
    batch = scan.batch.max() if batch is None else batch
    drawn = scan.bootstrap()
    losses = [scan.levels[0], scan.levels[-1]]
    critical = [[scan.B_crit[i], *np.quantile(drawn.B_crit[:, i], ends(0.8))] for i in (0, -1)]
    if loss is not None and loss < scan.levels[-1]:
        losses.append(loss)
        lower = drawn.law.B_star / loss ** (1 / drawn.law.alpha_B)
        critical.append([scan.law.B_star / loss ** (1 / scan.law.alpha_B), *np.quantile(lower, ends(0.8))])
    over = ["{} ({} to {}) at a loss of {:.4g}".format(*(_share(value / batch) for value in found), at)
            for at, found in zip(losses, critical, strict=True)]
    return Check("relatively infinite batch", bool(max(value for value, *_ in critical) <= STATIONARY * batch),
                 f"at B = {batch:g} steps are above S_min by {', '.join(over)} by the contours (80% intervals), "
                 f"{STATIONARY:.0%} is allowed")


def _share(x):
    return f"{x:.1%}" if x < 10 else f"{x:.2g} times"
