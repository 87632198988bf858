"""Every law of a pool, fitted to the rows below every cut of a table, with several ways to weigh its early runs.

Below a cut stand the smaller runs, whose fits foretell the larger ones (`validation` judges them). Each fit is made
again to tables in which whole runs are resampled: on real tables the spread of those, over laws and ways, tells far
more of how far a forecast is off than the curvature of any fit, and their mean errs less than the fits themselves
(`benchmarks/calibration.py`).
"""

from typing import NamedTuple

import jax
import numpy as np

from jaxscale import validation
from jaxscale.errors import InputError
from jaxscale.files import law_name
from jaxscale.groups import Fits, fit_weightings, resampled
from jaxscale.prediction import evaluate
from jaxscale.runs import Runs
from jaxscale.task import law_class, make_task

LAWS = ("chinchilla", "kaplan-nd")
WITH_BATCH = "kaplan-nsb"
# The power of its compute by which a row weighs, and the share of the rows, those of least compute, that is left out.
EARLY = {"all rows": (0.0, 0.0), "weights C^1/2": (0.5, 0.0), "weights C": (1.0, 0.0), "last two thirds": (0.0, 1 / 3),
         "last half": (0.0, 1 / 2)}
CUTS = 10 ** np.arange(3.0, 0.0, -0.5)  # how far below the largest run
LEAST_ROWS, LEAST_SIZES, LEAST_RUNS = 8, 3, 4  # of what is fitted below a cut
ALONG = {"C": ("N", "D"), "N": ("N",), "D": ("D",)}
DRAWS = 20  # tables of every weighting in which whole runs are resampled; fewer where they had more than ROWS rows
ROWS = 1 << 24


class Forecasts(NamedTuple):
    """Every law fitted below every cut, and at last to the whole table."""

    table: Runs
    along: np.ndarray  # [n] C, N or D
    observed: np.ndarray  # [n] ln loss
    names: list  # (law, early)
    laws: list  # fitted to the whole table
    fits: Fits  # of these
    draws: list  # laws, fields [draws]: the same with its runs resampled
    cuts: list  # `validation.Cut`s, the last of the whole table
    lost: tuple  # sentences: why laws are not among them


def forecasts(runs, laws=None, along="C", early=True, objective=None, drop_bad=False, progress=None, draws=DRAWS):
    """`Forecasts` of a table; arguments as for `pool`. draws: of each weighting's runs, 0 for none."""
    if along not in ALONG:
        raise InputError(f"along= must be one of {', '.join(ALONG)}, not {along!r}.")
    if not isinstance(runs, Runs):
        from jaxscale.tables import read_runs

        runs = read_runs(runs)
    laws = (laws,) if isinstance(laws, str | type) else laws
    laws = [law_class(law) for law in laws or (*LAWS, *([WITH_BATCH] if _batches(runs) else []))]
    table = runs.select(tuple(dict.fromkeys(("N", "D", *(name for Law in laws for name in Law.inputs)))),
                        drop_bad=drop_bad)
    x, observed, used = along_of(table, along), np.log(table.columns["loss"]), table.weights > 0
    cuts = np.unique([x[used & (x <= x.max() / far)].max(initial=0) for far in CUTS])
    cuts = [float(cut) for cut in cuts if _enough(table, used & (x <= cut))] + [float(x.max())]
    ways = EARLY if early else {"all rows": EARLY["all rows"]}
    weightings = np.array([weighting(table, used & (x <= cut), *way) for way in ways.values() for cut in cuts])
    names, own, fits, drawn, found, spread, noise, why = [], [], [], [], [], [], [], []
    for Law in laws:
        task = make_task(Law, table, objective=objective)
        many = fit_weightings(task, weightings, "sandwich", True, 0, 0, progress)
        columns = {name: table.columns[name] for name in Law.inputs}
        losses = np.log(evaluate(many.law, columns))
        able = np.isfinite(losses).all(axis=1)
        if not able.any():
            why.append(f"{law_name(Law)} is left out: {many.reasons[-1]}".rstrip("."))
            continue
        again = _resampled(task, many, weightings, able, draws, progress)
        lines = np.log(evaluate(_each(again, np.ravel), columns)).reshape(len(weightings), -1, len(table))
        constants = sum(about.default is None for about in Law.constants.values())
        for i, way in enumerate(ways):
            here = slice(i * len(cuts), (i + 1) * len(cuts))
            last = here.stop - 1
            if not able[last]:
                why.append(f"{law_name(Law)} is left out: {many.reasons[last]}".rstrip("."))
                continue
            names.append((law_name(Law), way))
            fits.append((many.fits, last))
            own.append(_each(many.law, lambda x, last=last: float(x[last])))
            drawn.append(_each(again, lambda x, last=last: x[last]))
            found.append(np.where(able[here, None], losses[here], np.nan))
            spread.append(lines[here])
            noise.append([_noise(observed - row, weights, constants) for row, weights in
                          zip(losses[here], weightings[here], strict=True)])
    if not names:
        raise InputError(f"none of the laws can be fitted to this table ({'; '.join(dict.fromkeys(why))}): add runs.")
    found, noise, spread = np.array(found), np.array(noise), np.array(spread)
    able = np.isfinite(noise)
    cuts = [validation.Cut(cut, found[:, i], float(np.median(noise[able[:, i], i])), spread[:, i])
            for i, cut in enumerate(cuts) if able[:, i].any()]
    return Forecasts(table, x, observed, names, own, Fits(lambda i: fits[i][0][fits[i][1]], len(fits)), drawn, cuts,
                     tuple(dict.fromkeys(why)))


def _resampled(task, many, weightings, able, draws, progress):
    """Every weighting's fits to tables in which whole runs are resampled: a law with fields [weightings, draws].

    NaN where a weighting has no fit, or a draw did not end; where none did, the fit itself stands for them.
    """
    if not draws:
        return _each(many.law, lambda x: x[:, None])
    own = np.flatnonzero(able)
    draws = min(draws, max(4, ROWS // weightings.size))
    with jax.enable_x64(True):
        points = np.concatenate([task.point_of(_each(many.law, lambda x, i=i: x[i])) for i in own])
    law = resampled(task, weightings[own], points, draws, progress=progress)

    def whole(name):
        best, drawn = getattr(many.law, name), np.full((len(weightings), draws), np.nan)
        drawn[own] = getattr(law, name)
        lost = np.isnan(drawn).all(axis=1)
        drawn[lost, 0] = best[lost]
        return drawn

    return type(law)(**{name: whole(name) for name in law.constants})


def _each(law, change):
    """The law with every field changed."""
    return type(law)(**{name: change(getattr(law, name)) for name in law.constants})


def _batches(runs):
    """Whether a table has what the law with a batch reads, and several batches."""
    try:
        return len(np.unique(runs.select(("N", "S", "B"), drop_bad=True).columns["B"])) > 1
    except InputError:
        return False


def along_of(runs, name):
    """C (as 6 N D), N or D of the rows."""
    columns = runs.select(ALONG[name], ALONG[name][0]).columns
    return 6 * columns["N"] * columns["D"] if name == "C" else columns[name]


def _enough(table, rows):
    return (rows.sum() >= LEAST_ROWS and len(np.unique(table.columns["N"][rows])) >= LEAST_SIZES
            and len(np.unique(table.run[rows])) >= LEAST_RUNS)


def weighting(table, rows, power, left_out):
    """Weights [n] of the rows up to a cut, by how early ones count: a value of `EARLY`."""
    C = 6 * table.columns["N"] * table.columns["D"]
    if left_out and rows.any():
        late = rows & (C > np.quantile(C[rows], left_out))
        rows = late if _enough(table, late) else rows
    return np.where(rows, (C / C[rows].max(initial=1.0)) ** power, 0.0)


def _noise(residuals, weights, constants):
    n = np.count_nonzero(weights)
    return np.sqrt(np.average(residuals**2, weights=weights) * n / max(n - constants, 1))

