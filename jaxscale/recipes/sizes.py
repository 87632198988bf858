"""Step 1 of Su et al. 2024 (section 3.1): L(N) from converged runs, and whether they have converged."""

import dataclasses

import numpy as np

from jaxscale.errors import InputError
from jaxscale.fitting import Fit, fit
from jaxscale.laws import KaplanN, PowerLaw
from jaxscale.objectives import squares
from jaxscale.runs import Runs
from jaxscale.tables import read_runs

STILL = 0.01  # of the loss, that a converged run would at most lose by twice the steps
END = 0.9  # of a run's steps, from which on the mean of its log loss is its final loss
SIZES = 7  # that Su et al. call enough


@dataclasses.dataclass(frozen=True, eq=False)
class ConvergedSizes:
    """The final losses of runs of several sizes, and the law of N through them.

    Attributes:
        N, loss: [k] parameters, final losses (the geometric mean over the last tenth of the steps).
        fall: [k] the share of the loss that twice the steps would still take off, from the slope of its last half;
            nan for a run of one row, taken as converged because there is nothing to see.
        converged: [k] whether that is below `tolerance`.
        tolerance: the share of the loss that is called converged.
        fit: the law of N, a `Fit`: `KaplanN`, or with a floor a `PowerLaw` of N.
        notes: what a reader should know.
    """

    N: np.ndarray
    loss: np.ndarray
    fall: np.ndarray
    converged: np.ndarray
    tolerance: float
    fit: Fit
    notes: tuple[str, ...]

    @property
    def constants(self):
        """N_c, alpha_N and E as the laws of steps call them."""
        law = self.fit.law
        if isinstance(law, KaplanN):
            return {"N_c": law.N_c, "alpha_N": law.alpha_N, "E": 0.0}
        return {"N_c": law.x_c, "alpha_N": law.alpha, "E": law.E}

    def __str__(self):
        lines = ["L(N) from final losses (Su et al. 2024, Eq 3.1)",
                 f"{'N':>10} {'loss':>8}  twice the steps would take off"]
        lines += [f"{N:10.4g} {loss:8.4f}  {'unknown' if np.isnan(fall) else f'{fall:.2%}'}"
                  for N, loss, fall in zip(self.N, self.loss, self.fall, strict=True)]
        return "\n".join([*lines, *self.notes, "", str(self.fit)])


def converged_sizes(runs, tolerance=STILL, floor=False):
    """N_c and alpha_N from the final losses of runs of several sizes -> `ConvergedSizes`.

    L(N) = (N_c / N)^alpha_N (Su et al. 2024, Eq 3.1), by least squares in the log of the loss; `floor` adds E. Of each
    size the runs count that have converged: by the slope of their last half, twice the steps would take less than
    `tolerance` off the loss. Where none has, the one of lowest loss stands in, and `notes` say so: its loss is too
    high, most for the large sizes, and alpha_N comes out too low.

    Args:
        runs: a table of runs, as `read_runs` takes: N, loss and, for the test, S (or D) and a run column. One row a
            run is taken as converged.
        tolerance: share of the loss.
        floor: fit E too.

    Raises:
        InputError: for fewer than 2 sizes (with a floor 3), or a tolerance that is no share.

    >>> import jaxscale as jsc, numpy as np
    >>> law = jsc.laws.published["su2024-c4"]
    >>> rows = [{"run": N, "N": N, "S": S, "loss": float(law(N, S, 1e8))}
    ...         for N in (1e6, 4e6, 1.6e7, 6.4e7) for S in np.geomspace(1e4, 1e8, 20)]
    >>> found = jsc.recipes.converged_sizes(rows)
    >>> print(found.converged.all(), round(found.fit.law.alpha_N, 3))
    True 0.076
    """
    check_tolerance(tolerance)
    chosen = read_runs(runs)
    progress = next((name for name in ("S", "D") if chosen.has(name)), None)
    chosen = chosen.select(("N", *([progress] if progress else [])))
    alone = len(np.unique(chosen.run)) == len(chosen)
    if alone and "S" in chosen.columns and len(chosen) > 3 * len(np.unique(chosen.columns["N"])):
        raise InputError(f"final losses are those of whole runs, and all {len(chosen)} rows count as runs of their "
                         "own: name the column of run ids with run= (--column run=...), or give the last row of each.")
    ends = [_end(chosen, np.flatnonzero(chosen.run == code), progress) for code in np.unique(chosen.run)]
    N, loss, fall = np.array(ends).T
    still = ~(fall >= tolerance)  # one row shows no slope
    used, notes = _one_size_each(N, loss, still)
    need = 3 if floor else 2
    if len(np.unique(N)) < need:
        raise InputError(f"a law of N{' with a floor' * floor} takes runs of at least {need} sizes, and the table has "
                         f"{len(np.unique(N))} (N = {', '.join(f'{value:g}' for value in np.unique(N))}).")
    sizes = Runs.from_columns({"N": N[used], "loss": loss[used]}, source=chosen.source)
    how = {"x": "N", "free": ("E",)} if floor else {}
    found = fit(PowerLaw if floor else KaplanN, sizes, objective=squares(), **how)
    if np.isnan(fall).all():
        notes.append("one row a run, so nothing shows whether the runs have converged: they are taken as converged")
    if len(np.unique(N)) < SIZES:
        notes.append(f"{len(np.unique(N))} sizes: Su et al. call {SIZES} enough")
    return ConvergedSizes(N[used], loss[used], fall[used], still[used], float(tolerance), found, tuple(notes))


def check_tolerance(tolerance):
    """Raise InputError for a tolerance that is no share of the loss."""
    if not (np.isscalar(tolerance) and 0 < tolerance < 1):
        raise InputError(f"tolerance must be a share of the loss between 0 and 1, not {tolerance!r}: 0.01, say.")


def _end(runs, rows, progress):
    """N, the final loss, and the share of it that twice the steps would take off, of one run."""
    log_loss = np.log(runs.columns["loss"][rows])
    N = runs.columns["N"][rows]
    if progress is None or len(rows) < 3:
        return N[-1], float(np.exp(log_loss[-1])), np.nan
    done = np.log(runs.columns[progress][rows])
    order = np.argsort(done)
    done, log_loss = done[order], log_loss[order]
    last = np.mean(log_loss[done >= done[-1] + np.log(END)])
    half = (done >= done[-1] - np.log(2) - 1e-9) | (np.arange(len(done)) >= len(done) - 3)
    slope = np.polyfit(done[half] - done[-1], log_loss[half], 1)[0] if np.ptp(done[half]) > 0 else np.nan
    return N[-1], float(np.exp(last)), 1 - 2.0 ** min(slope, 0.0)


def _one_size_each(N, loss, converged):
    """Which runs count [k], and notes on the sizes where none has converged."""
    used, lacking = [], []
    for size in np.unique(N):
        rows = np.flatnonzero(N == size)
        if converged[rows].any():
            used += list(rows[converged[rows]])
        else:
            used.append(rows[np.argmin(loss[rows])])
            lacking.append(size)
    notes = [] if not lacking else [
        f"{len(lacking)} of {len(np.unique(N))} sizes have no converged run, and their lowest final loss stands in, "
        f"which is too high: N = {', '.join(f'{size:g}' for size in lacking)}"]
    return np.array(used), notes
