"""Several data sources side by side (Su et al. 2024, section 5): one law each, at the models they share."""

import dataclasses

import jax
import numpy as np

from jaxscale.errors import InputError, nearest
from jaxscale.groups import GroupFits, fit_groups, fit_weightings
from jaxscale.laws import Chinchilla
from jaxscale.prediction import evaluate, law_inputs, outside
from jaxscale.tables import frame, read_runs
from jaxscale.uncertainty import ends, resampled_counts

GROWTH = {"N": 0.5, "N_active": 0.5, "N_total": 0.5, "D": 0.5, "S": 0.5, "C": 1.0}  # powers of compute they grow with
GRID, ROUNDS = 257, 4  # of the search for the model of least mean loss at a compute


@dataclasses.dataclass(frozen=True, eq=False)
class Sources:
    """One law per source, and what they say at one target. `print(sources)` is the report.

    Attributes:
        names: [s] the sources.
        fits: `GroupFits`, the laws with their standard errors.
        at: the target, a dict of the law's inputs.
        loss: [s] nats, at the target.
        exponent: [s] -d ln L / d ln C there, N and D (or N and S) growing alike with C^(1/2).
        gain: [s] nats by which the loss falls when the target's compute is doubled in that way.
        drawn: the three by name, [draws, s], of tables in which whole runs were resampled, the same for all sources.
        notes: what a reader should know.
    """

    names: tuple[str, ...]
    fits: GroupFits
    at: dict
    loss: np.ndarray
    exponent: np.ndarray
    gain: np.ndarray
    drawn: dict
    notes: tuple[str, ...]

    @property
    def fastest(self):
        """The source of the largest exponent at the target."""
        return self.names[int(np.argmax(self.exponent))]

    @property
    def lowest(self):
        """The source of the least loss at the target."""
        return self.names[int(np.argmin(self.loss))]

    @property
    def share_fastest(self):
        """[s] share of draws in which a source falls fastest: what the runs can tell of the order."""
        return _share(np.argmax(self.drawn["exponent"], axis=1), len(self.names))

    @property
    def share_lowest(self):
        """[s] share of draws in which a source is lowest."""
        return _share(np.argmin(self.drawn["loss"], axis=1), len(self.names))

    def interval(self, level=0.8):
        """Two dicts of loss, exponent and gain [s]: the lower and the upper ends, each source by itself."""
        return tuple({name: np.quantile(values, at, axis=0) for name, values in self.drawn.items()}
                     for at in ends(level))

    def to_frame(self, level=0.8):
        """A DataFrame, one row a source: the constants and their errors, and the target's numbers with their ends."""
        low, high = self.interval(level)
        columns = {"source": self.names}
        for name in self.fits.Law.constants:
            columns |= {name: getattr(self.fits.law, name), f"{name}_error": getattr(self.fits.standard_errors, name)}
        for name in self.drawn:
            columns |= {name: getattr(self, name), f"{name}_low": low[name], f"{name}_high": high[name]}
        return frame(columns | {"share_fastest": self.share_fastest, "share_lowest": self.share_lowest})

    def __str__(self):
        low, high = self.interval(0.8)
        wide = max(6, *map(len, self.names))
        free = [name for name in self.fits.Law.constants if np.any(np.nan_to_num(
            getattr(self.fits.standard_errors, name), nan=1.0) > 0)]
        lines = [f"{self.fits.Law.__name__}, one law a source; standard errors by run",
                 f"{'source':{wide}}" + "".join(f"{name:>22}" for name in free)]
        for i, source in enumerate(self.names):
            pairs = [(getattr(self.fits.law, name)[i], getattr(self.fits.standard_errors, name)[i]) for name in free]
            lines.append(f"{source:{wide}}" + "".join(f"{value:12.5g} +- {error:<6.2g}" for value, error in pairs))
        lines += ["", f"at {', '.join(f'{name} = {value:.4g}' for name, value in self.at.items())}; 80% intervals from "
                      f"{len(self.drawn['loss'])} tables of resampled runs",
                  f"{'source':{wide}}{'loss':>9} {'interval':^17}{'-dlnL/dlnC':>11} {'interval':^19}"
                  f"{'gain':>9} {'fastest':>8} {'lowest':>7}"]
        for i, source in enumerate(self.names):
            lines.append(f"{source:{wide}}{self.loss[i]:9.4f} {low['loss'][i]:7.4f} .. {high['loss'][i]:<7.4f}"
                         f"{self.exponent[i]:10.5f}  {low['exponent'][i]:7.5f} .. {high['exponent'][i]:<8.5f}"
                         f"{self.gain[i]:8.4f} {self.share_fastest[i]:8.0%} {self.share_lowest[i]:7.0%}")
        lines.append("gain: nats the loss falls by when this compute is doubled, N and D alike; fastest, lowest: the "
                     "share of the tables")
        return "\n".join([*lines, *self.notes])


def sources(table, law=Chinchilla, *, by=None, losses=None, at=None, compute=None, draws=500, seed=0, **question):
    """One law per data source, fitted side by side, and what they say at one target -> `Sources`.

    The same models evaluated on several sources: which one's loss falls fastest (the largest -d ln L / d ln C), which
    is lowest, and what more compute is worth on each: the nats by which its loss falls when the target's compute is
    doubled, N and D (or N and S) growing alike. Su et al. 2024, section 5, take a source whose loss falls faster, and
    to less, as one that might be more useful. That is a heuristic: these numbers say how well a source is learned from
    the data that the runs were trained on. What more of it in those data would do, they do not say; runs with other
    mixes do (`laws.mixing`, `recipes.optimal_mix`).

    All sources are evaluated on the same runs, so their errors go together: whole runs are resampled, the same ones for
    every source, and the order is counted draw by draw.

    Args:
        table: a table of runs, as `read_runs` takes, with a column of run ids.
        law: a law class, or its name in the catalogue.
        by: the column (or columns) that names the source, one row a run and source; or
        losses: source -> its column of losses, one row for all: {"code": "loss_code", "prose": "loss_prose"}. Empty
            cells are left out.
        at: the target, a dict of inputs that give the law's own: {"N": 7e9, "D": 1e12}. The largest run, if not given.
        compute: FLOPs; the target is then the model of least mean loss over the sources at that compute.
        draws, seed: of the resampling.
        question: what `fit` takes: objective, fix, free, tie, weights="run", x, ...

    Raises:
        InputError: for fewer than two sources, one that cannot be fitted, and a target that the law cannot be put to.

    >>> import numpy as np, jaxscale as jsc
    >>> rows = [{"run": f"{N} {D}", "source": name, "N": N, "D": D, "loss": E + 400 / N**alpha + 400 / D**0.3}
    ...         for N in np.geomspace(1e7, 1e9, 7) for D in np.geomspace(1e9, 6e10, 5)
    ...         for name, E, alpha in (("code", 1.0, 0.4), ("prose", 2.0, 0.3))]
    >>> found = jsc.recipes.sources(rows, by="source", at={"N": 1e10, "D": 2e11}, draws=20)
    >>> print(found.fastest, found.lowest, found.loss.round(3))
    prose code [1.203 2.563]
    """
    names, fits, drawn, notes = fit_sources(table, law, by, losses, draws, seed, question, least=2)
    inputs = fits.fits[0].facts["inputs"]
    columns = _target(fits, at, compute, inputs)
    each = [_measured(law_of, columns, inputs) for law_of in drawn]
    whole = {name: np.stack([found[name] for found in each], axis=1) for name in each[0]}
    far = (f"{sentence}: this is an extrapolation" for sentence in outside(fits.fits[0].facts["ranges"], columns))
    return Sources(names, fits, {inputs[name]: float(value[0]) for name, value in columns.items()},
                   **_measured(fits.law, columns, inputs), drawn=whole, notes=(*far, *notes))


def fit_sources(table, law, by, losses, draws, seed, question, least=1):
    """Names of the sources, their `GroupFits`, a batch of laws each from the same resampled tables, and notes."""
    if (by is None) == (losses is None):
        raise InputError("sources are named by by=, a column, or losses=, a dict of source and column of losses, not "
                         f"{'neither' if by is None else 'both'}: pass one.")
    if draws < 2:
        raise InputError(f"at least 2 tables must be resampled, not {draws}: 500 give shares to 2%.")
    runs = read_runs(table)
    if losses is not None:
        runs, by = _stacked(runs, losses), "source"
    fits = fit_groups(law, runs, by=by, **question)
    names = tuple(" / ".join(str(value) for value in key.values()) for key in fits.keys)
    if len(names) < least:
        raise InputError(f"sources compares two or more, the table has {names[0]!r} alone: fit it with jaxscale.fit.")
    for name, points, reason in zip(names, fits.points, fits.reasons, strict=True):
        if not points:
            raise InputError(f"each source must have a fit, {name!r} has none ({reason}): leave its rows out.")
    drawn = [_resampled(fit.task, runs, draws, seed) for fit in fits.fits]
    kept = np.all([source.converged for source in drawn], axis=0)
    if not kept.any():
        raise InputError("no resampled table could be fitted for every source: the runs are too few for "
                         f"{fits.Law.__name__}; hold constants with fix=, or give more runs.")
    laws = [jax.tree.map(lambda values: values[kept], source.law) for source in drawn]
    return names, fits, laws, _notes(fits, runs, kept)


def _stacked(runs, losses):
    """The runs once a source, with the source's losses; a run that was not evaluated on a source is not there."""
    parts = []
    for column in losses.values():
        key = next((quantity for quantity, name in runs.names.items() if name == column), column)
        if key not in runs.columns:
            raise InputError(f"losses= must name columns of numbers in the table; {column!r} is none, it has "
                             f"{', '.join(runs.columns)}{nearest(column, runs.columns)}: name one of them.")
        parts.append(runs.columns[key])
    loss, count = np.concatenate(parts), len(runs)
    there = np.flatnonzero(~np.isnan(loss))
    stacked = runs.take(there % count)
    return dataclasses.replace(stacked, columns=stacked.columns | {"loss": loss[there]},
                               groups=stacked.groups | {"source": np.repeat(list(losses), count)[there]},
                               ambiguous={name: of for name, of in runs.ambiguous.items() if name != "loss"},
                               names={name: of for name, of in runs.names.items() if name != "loss"})


def _resampled(task, runs, draws, seed):
    """`GroupFits` of a source, one a table in which whole runs of all sources together were resampled."""
    run_of = dict(zip(runs.row.tolist(), runs.run.tolist(), strict=True))
    counts = resampled_counts(int(runs.run.max()) + 1, draws, seed)
    own = counts[:, [run_of[row] for row in task.runs.row.tolist()]]
    return fit_weightings(task, own, errors=None, polish=True, draws=2, seed=seed, progress=None)


def _target(fits, at, compute, inputs):
    """The law's inputs [1] at the target."""
    law, task = fits.fits[0].law, fits.fits[0].task
    if compute is None and at is None:
        table = {name: task.runs.columns[column] for name, column in inputs.items()}
        size = sum(np.log(values) for name, values in table.items() if inputs[name] in {*GROWTH, "B", "M"})
        return {name: values[[int(np.argmax(size))]] for name, values in table.items()}
    if compute is None:
        columns, shape = law_inputs(law, at, inputs)
        if shape:
            raise InputError(f"at= must be one target, numbers and not arrays; its inputs have the shape {shape}.")
        return columns
    low, high = np.log(1e3), np.log(max(compute, 6e4) / 6)
    for _ in range(ROUNDS):
        grid = np.linspace(low, high, GRID)
        columns, _ = law_inputs(law, {**(at or {}), "N": np.exp(grid), "C": compute}, inputs)
        mean = np.mean(evaluate(fits.law, columns), axis=0)
        best = int(np.nanargmin(mean))
        if best in (0, GRID - 1):
            raise InputError(f"{fits.Law.__name__} has no best model at compute = {compute:.3g} FLOPs: pass the target "
                             "itself, as at={'N': 7e9, 'D': 1e12}.")
        low, high = grid[best - 1], grid[best + 1]
    return {name: values[[best]] for name, values in columns.items()}


def _measured(law, columns, inputs):
    """Loss, exponent and gain [laws] of a batch of laws at the target."""
    growth = {name: GROWTH.get(inputs[name], 0.0) for name in columns}
    if not any(growth.values()):
        raise InputError(f"how fast a source falls is seen along {', '.join(GROWTH)}, and the law reads "
                         f"{', '.join(inputs.values())}: choose a law of one of them.")
    step = 1e-3  # of ln C; central differences, exact to step^2
    at, up, down, doubled = (
        evaluate(law, {name: value * np.exp(growth[name] * move) for name, value in columns.items()})[:, 0]
        for move in (0.0, step, -step, np.log(2.0)))
    return {"loss": at, "exponent": -(np.log(up) - np.log(down)) / (2 * step), "gain": at - doubled}


def _share(best, count):
    return np.bincount(best, minlength=count) / len(best)


def _notes(fits, runs, kept):
    notes, names = [], {name for fit in fits.fits for name in fit.certificate.at_bound}
    if names:
        notes.append(f"at a bound for some source: {', '.join(sorted(names))}; its error is not known")
    if len(np.unique(runs.run)) == len(runs) and len(runs) > max(fits.points):
        notes.append("no run is seen by two sources (name the runs with run=): they were resampled apart, and the "
                     "shares are rough")
    if not kept.all():
        notes.append(f"{np.mean(~kept):.1%} of the tables could not be fitted for every source, and are left out")
    return tuple(notes)
