"""How far the best size and the loss at a budget move with choices that papers make and seldom vary.

Laws, objectives, how early rows count, and which of a table's counts of parameters is N: every combination is fitted
and planned. The spread over them is the error that no one fit's standard errors hold.
"""

import dataclasses

import numpy as np

from jaxscale.cuts import forecasts
from jaxscale.errors import InputError
from jaxscale.objectives import huber, squares
from jaxscale.planning import plan
from jaxscale.runs import Runs

OBJECTIVES = {"huber 1e-3": huber(1e-3), "squares": squares()}


@dataclasses.dataclass(frozen=True, eq=False)
class Choices:
    """The compute-optimal run by every combination of choices; `print` ranks the choices by how far they move it.

    `rows` are dicts: law, early, objective, parameters, N, D, loss, and `missed`, the mean |error| of ln loss of that
    law's forecasts of the table's larger runs up to ten times beyond (NaN where the table is too small).
    """

    compute: float
    rows: tuple[dict, ...]

    def to_frame(self):
        """A DataFrame, one row a combination."""
        from jaxscale.tables import frame

        return frame({name: np.array([row[name] for row in self.rows]) for name in self.rows[0]})

    def spread(self, choice):
        """How far N moves with one choice, all others alike: the geometric mean of largest over smallest N."""
        rest = [name for name in CHOICES if name != choice]
        alike = {}
        for row in self.rows:
            alike.setdefault(tuple(row[name] for name in rest), []).append(row["N"])
        return float(np.exp(np.mean([np.log(np.max(N) / np.min(N)) for N in alike.values()])))

    def plot(self):
        """A matplotlib figure: N and loss of all combinations in rising order of N, and the choices behind each."""
        import matplotlib.pyplot as plt

        rows = sorted(self.rows, key=lambda row: row["N"])
        ticks = [(name, value) for name in CHOICES for value in dict.fromkeys(row[name] for row in self.rows)]
        ticks = [(name, value) for name, value in ticks if len({row[name] for row in self.rows}) > 1]
        figure, (sizes, losses, marks) = plt.subplots(
            3, 1, sharex=True, figsize=(8, 4 + 0.25 * len(ticks)), height_ratios=(2, 1.2, 0.15 * len(ticks) + 0.3))
        sizes.semilogy([row["N"] for row in rows], ".")
        sizes.set(ylabel="parameters", title=f"the compute-optimal run at {self.compute:.3g} FLOPs, by choice")
        losses.plot([row["loss"] for row in rows], ".")
        losses.set(ylabel="loss, nats")
        for y, (name, value) in enumerate(ticks):
            at = [x for x, row in enumerate(rows) if row[name] == value]
            marks.plot(at, [y] * len(at), "|k", ms=8)
        marks.set(yticks=range(len(ticks)), yticklabels=[str(value) for _, value in ticks], xlabel="combination")
        figure.tight_layout()
        return figure

    def __str__(self):
        N, loss = (np.array([row[name] for row in self.rows]) for name in ("N", "loss"))
        ratio = np.array([row["D"] / row["N"] for row in self.rows])
        lines = [f"{len(self.rows)} combinations at {self.compute:.3g} FLOPs",
                 f"N     {N.min():.3e} to {N.max():.3e}, median {np.median(N):.3e}",
                 f"D/N   {ratio.min():.3g} to {ratio.max():.3g}, median {np.median(ratio):.3g}",
                 f"loss  {loss.min():.4f} to {loss.max():.4f}, median {np.median(loss):.4f}", "",
                 "N moves, all else alike, by a factor of"]
        spreads = {name: self.spread(name) for name in CHOICES}
        lines += [f"  {factor:6.2f}  with the {CHOICES[name]}" for name, factor in
                  sorted(spreads.items(), key=lambda item: -item[1]) if factor > 1]
        return "\n".join(lines)

    __repr__ = __str__


CHOICES = {"law": "law", "early": "weight of early rows", "objective": "objective", "parameters": "count of parameters"}


def choices(runs, compute, *, laws=None, objectives=None, parameters=("N",), progress=None):
    """Fit and plan every combination of laws, objectives, early rows and counts of parameters -> `Choices`.

    Args:
      runs: `Runs`, a DataFrame or a path, with N, D and loss.
      compute: FLOPs to plan for.
      laws: of N and D; by default those of `jaxscale.pool`.
      objectives: name -> objective; by default Huber's and squares, of log residuals.
      parameters: the columns that each count as N, ("N", "N_no_embed") say.
      progress: called with the number of fits that have ended since the last call.

    Raises:
      InputError: a column is missing, or no law can be fitted.

    Example:
      >>> print(recipes.choices("runs.csv", compute=1e24))  # doctest: +SKIP
    """
    if not isinstance(runs, Runs):
        from jaxscale.tables import read_runs

        runs = read_runs(runs)
    found = []
    for column in parameters:
        if not runs.has(column):
            raise InputError(f"parameters= names the column {column!r}, which the table has not: name columns of N.")
        table = runs if column == "N" else dataclasses.replace(
            runs, columns={name: x for name, x in runs.columns.items() if name != "C"} | {"N": runs.columns[column]})
        for name, objective in (objectives or OBJECTIVES).items():
            tried = forecasts(table, laws, objective=objective, progress=progress, draws=0)
            missed = _missed(tried)
            for (law, early), fitted, error in zip(tried.names, tried.laws, missed, strict=True):
                best = plan(fitted, compute=compute)
                found.append({"law": law, "early": early, "objective": name, "parameters": column, "N": float(best.N),
                              "D": float(best.D), "loss": float(best.loss), "missed": error})
    return Choices(float(compute), tuple(found))


def _missed(tried):
    """Mean |error| [laws] of ln loss of rows up to ten times beyond a cut."""
    errors = []
    for cut in tried.cuts[:-1]:
        at = (tried.along > cut.at * (1 + 1e-9)) & (tried.along <= 10 * cut.at)
        if at.any():
            errors.append(np.mean(np.abs(cut.forecasts[:, at] - tried.observed[at]), axis=1))
    return np.nanmean(errors, axis=0) if errors else np.full(len(tried.names), np.nan)
