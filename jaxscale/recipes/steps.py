"""Steps 2 and 6 of Su et al. 2024: L(N, S_min) from runs of a large batch, and B_crit along whole trajectories."""

import dataclasses

import jax
import numpy as np

from jaxscale.errors import InputError
from jaxscale.fitting import Fit, fit
from jaxscale.laws import CriticalBatchSize, KaplanNS, KaplanNSB
from jaxscale.objectives import squares
from jaxscale.recipes.sizes import ConvergedSizes
from jaxscale.tables import read_runs

LARGE = 0.5  # of the table's largest batch, from which on a batch is large
BLOCKS = 8  # stretches of a curve that count as runs where there is one run only


@dataclasses.dataclass(frozen=True, eq=False)
class LargeBatchSteps:
    """S_c and alpha_S from trajectories at a batch so large that their steps are S_min.

    Attributes:
        batch: the least of their batch sizes, tokens.
        N: [k] their models.
        fit: `KaplanNS` with N_c, alpha_N and E held, a `Fit`.
        notes: what a reader should know.
    """

    batch: float
    N: np.ndarray
    fit: Fit
    notes: tuple[str, ...]

    def __str__(self):
        head = f"L(N, S_min) from the runs of B = {self.batch:g} tokens or more (Su et al. 2024, Eq 3.2)"
        return "\n".join([head, *self.notes, "", str(self.fit)])


@dataclasses.dataclass(frozen=True, eq=False)
class AlongTrajectories:
    """The critical batch size along whole trajectories, given L(N, S_min).

    Attributes:
        N, B, loss, B_crit: [n] of each row: B_crit = B (S / S_min(N, L) - 1), nan where the loss is out of reach of
            L(N, S_min) or the steps are fewer than S_min.
        fit: `KaplanNSB` with all but B_star and alpha_B held, a `Fit`.
        notes: what a reader should know.
    """

    N: np.ndarray
    B: np.ndarray
    loss: np.ndarray
    B_crit: np.ndarray
    fit: Fit
    notes: tuple[str, ...]

    @property
    def law(self):
        """The critical batch size at a loss, `CriticalBatchSize`."""
        return CriticalBatchSize(B_star=self.fit.law.B_star, alpha_B=self.fit.law.alpha_B)

    def __str__(self):
        return "\n".join(["B_crit along whole trajectories, L(N, S_min) known (Su et al. 2024, footnote 7)",
                          *self.notes, "", str(self.fit)])


def large_batch_steps(runs, sizes, batch=None):
    """S_c and alpha_S from trajectories at the largest batch, L(N) known -> `LargeBatchSteps`.

    L(N, S_min) = E + (N_c / N)^alpha_N + (S_c / S_min)^alpha_S (Su et al. 2024, Eq 3.2) with N_c, alpha_N and E held at
    what step 1 found, by least squares in the log of the loss. A finite batch needs 1 + B_crit / B times S_min steps,
    so S_c comes out too high by that factor: see the check of `stationary_in_batch`.

    Args:
        runs: a table of runs, as `read_runs` takes: N, S, B, loss and a run column. Drop the warm-up before.
        sizes: what `converged_sizes` found, or a law with N_c and alpha_N.
        batch: take all runs of that many tokens a step or more; without it, of half the table's largest batch.

    Raises:
        InputError: where no run has so large a batch, or too few rows.

    >>> import jaxscale as jsc, numpy as np
    >>> law = jsc.laws.published["su2024-c4"]
    >>> rows = [{"run": 0, "N": 1e7, "B": 1e9, "S": S, "loss": float(law(1e7, S, 1e9))}
    ...         for S in np.geomspace(3e2, 1e5, 50)]
    >>> found = jsc.recipes.large_batch_steps(rows, jsc.laws.KaplanN(N_c=1.5e14, alpha_N=0.076))
    >>> print(round(found.fit.law.alpha_S, 2))
    0.67
    """
    known = _constants(sizes)
    chosen = read_runs(runs).select(("N", "S", "B"))
    batch, curves = large(chosen, batch)
    notes = []
    if curves.run.max() == 0:
        curves = _in_stretches(curves)
        notes.append(f"one run only: its {curves.run.max() + 1} stretches count as runs in the errors, which know the "
                     "curve's noise and not how runs differ")
    floor = known["E"] + (known["N_c"] / curves.columns["N"]) ** known["alpha_N"]
    below = curves.columns["loss"] <= floor
    if below.any():
        notes.append(f"{below.sum()} of {len(below)} rows are below the L(N) of step 1, which is not the loss of "
                     "converged runs then")
    found = fit(KaplanNS, curves, fix=known, objective=squares(), weights="run")
    return LargeBatchSteps(batch, np.unique(curves.columns["N"]), found, tuple(notes))


def large(runs, batch=None):
    """The least batch that counts as large, and the rows of such a batch."""
    B = runs.columns["B"]
    batch = LARGE * float(B.max()) if batch is None else batch
    if not (np.isscalar(batch) and np.any(B >= batch)):
        raise InputError(f"batch must be tokens per step that some run of the table has, whose largest is {B.max():g}, "
                         f"not {batch!r}.")
    return batch, runs.where(B >= batch)


def along_trajectories(runs, steps):
    """B_star and alpha_B from whole trajectories of any batch, L(N, S_min) known -> `AlongTrajectories`.

    Su et al. 2024, footnote 7: at each row S_min follows from L(N, S_min), and B_crit = B (S / S_min - 1) from Eq 3.10.
    Where S is near S_min that is noise alone, so B_star and alpha_B are not fitted to these points but to the losses,
    through Eq 3.13 with the other constants held.

    Args:
        runs: a table of runs, as `read_runs` takes: N, S, B, loss and a run column. Drop the warm-up before.
        steps: what `large_batch_steps` found, or a law with N_c, alpha_N, S_c and alpha_S.

    Raises:
        InputError: for one batch size only.

    >>> import jaxscale as jsc, numpy as np
    >>> law = jsc.laws.published["su2024-c4"]
    >>> rows = [{"run": B, "N": 1e7, "B": B, "S": S, "loss": float(law(1e7, S, B))}
    ...         for B in (1e5, 1e6) for S in np.geomspace(1e3, 1e5, 20)]
    >>> found = jsc.recipes.along_trajectories(rows, law)
    >>> print(f"{found.law.B_star:.3g} {found.law.alpha_B:.3f}")
    1.7e+08 0.205
    """
    law = _law_of_steps(steps)
    chosen = read_runs(runs).select(("N", "S", "B"))
    N, S, B, loss = (chosen.columns[name] for name in ("N", "S", "B", "loss"))
    if len(np.unique(B)) < 2:
        raise InputError(f"the critical batch size takes runs of at least 2 batch sizes, and all are of B = {B[0]:g}.")
    with jax.enable_x64(True):
        fewest = np.asarray(law.minimum_steps(N, loss))
    critical = np.where(S > fewest, B * (S / fewest - 1), np.nan)
    lost = np.isnan(critical)
    notes = () if not lost.any() else (
        f"{lost.sum()} of {len(lost)} rows are below L(N, S_min) as it is known, and have no B_crit of their own",)
    held = {name: getattr(law, name) for name in law.constants}
    found = fit(KaplanNSB, chosen, fix=held, objective=squares(), weights="run")
    return AlongTrajectories(N, B, loss, critical, found, notes)


def _constants(sizes):
    if isinstance(sizes, ConvergedSizes):
        return sizes.constants
    if not isinstance(sizes, type) and hasattr(sizes, "N_c") and hasattr(sizes, "alpha_N"):
        return {"N_c": sizes.N_c, "alpha_N": sizes.alpha_N, "E": getattr(sizes, "E", 0.0)}
    raise InputError(f"sizes must be what converged_sizes found, or a law with N_c and alpha_N, not {sizes!r}.")


def _law_of_steps(steps):
    law = getattr(getattr(steps, "fit", steps), "law", steps)
    if not all(hasattr(law, name) for name in ("N_c", "alpha_N", "S_c", "alpha_S")):
        raise InputError(f"steps must be what large_batch_steps found, or a law with N_c, alpha_N, S_c and alpha_S, "
                         f"not {steps!r}.")
    return KaplanNS(**{name: getattr(law, name) for name in ("N_c", "alpha_N", "S_c", "alpha_S")},
                    E=getattr(law, "E", 0.0))


def _in_stretches(curve):
    """The runs of one curve, each of its stretches in log S a run of its own."""
    depth = np.log(curve.columns["S"])
    ends = np.linspace(depth.min(), depth.max(), BLOCKS + 1)[1:-1]
    return dataclasses.replace(curve, run=np.unique(np.searchsorted(ends, depth), return_inverse=True)[1])
