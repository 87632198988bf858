"""Learning curves: the rest of each run's curve foretold from what is known of it, with an interval that holds.

A law of one run's losses is a little wrong, most at the run's start, and the losses drift; beside that, what the
constants do not know is little. So several laws are fitted with several early cuts, and back-tests inside the curve
say which of them foretell its later rows, and how far off they are.
"""

import dataclasses
import functools
import itertools
import math

import jax
import numpy as np

from jaxscale import validation
from jaxscale.errors import InputError, nearest
from jaxscale.groups import fit_every_group
from jaxscale.objectives import squares
from jaxscale.prediction import evaluate
from jaxscale.runs import Runs
from jaxscale.tables import read_runs
from jaxscale.task import law_class
from jaxscale.uncertainty import student

LAWS = ("power-law", "shifted-power-law")
EARLY = {0.0: 1.2, 0.15: 1.0, 0.3: 0.8}  # share of the fitted rows left out at the start: its usual relative error
SHORTER = (0.35, 0.5, 0.7, 1.0)  # of the last x, up to which rows are fitted; those below 1 are back-tests
LEAST = 5  # rows that a fit is given
ROWS = 64  # of every fit, so that one shape is compiled
SHARP = 6.0  # weights of members go as their relative errors to minus this
SCALE = validation.Scale(1.55, 0.77, 0.0077, 0.3, 0.44)  # by benchmarks/learning_curves.py, on real curves


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """One learning curve: its known rows, the laws fitted to it, and what their back-tests say."""

    name: str
    quantity: str  # what x is
    x: np.ndarray  # [n] rising
    loss: np.ndarray  # [n] nats
    members: tuple[tuple[str, float], ...]  # (law, share of the rows left out at the start)
    laws: tuple  # one a law, its constants [early cuts], NaN where the rows do not tell them
    cuts: tuple[validation.Cut, ...]  # of the back-tests in rising order, and at last of the whole curve
    weights: np.ndarray  # [members]
    width: float  # of intervals, against what is usual on real curves
    backtest: validation.Backtest

    @property
    def noise(self):
        """Standard deviation of a row's ln loss about its neighbours."""
        return self.cuts[-1].noise

    def each(self, x):
        """The loss by every member, NumPy float64 [members, ...] at x [...]."""
        x = _checked(x, self.quantity, self)
        found = np.concatenate([evaluate(law, {"x": x.ravel()}) for law in self.laws])
        return found.reshape(len(self.members), *x.shape)

    def predict(self, x):
        """The loss expected at x [...], beyond the last known: the members' weighted geometric mean."""
        return np.exp(self._combined(x).centre)

    def predict_interval(self, x, level=0.8):
        """Lower and upper ends of the interval of a row's loss at x [...], of a level."""
        half, both = student(level, math.inf), self._combined(x)
        return tuple(np.exp(both.centre + sign * half * both.sd) for sign in (-1, 1))

    def _combined(self, x):
        each = np.log(self.each(x))
        both = validation.combine(each.reshape(len(each), -1), self.weights, self.noise,
                                  np.ravel(x) / self.x[-1], self.width, SCALE)
        return validation.Combined(*(values.reshape(each.shape[1:])[()] for values in both))


@dataclasses.dataclass(frozen=True, eq=False)
class LearningCurves:
    """Learning curves and their forecasts; `print` is the report, `found["name"]` one `Curve`."""

    quantity: str
    curves: tuple[Curve, ...]
    lost: dict  # name -> why a curve has no forecast
    notes: tuple[str, ...]

    def __len__(self):
        return len(self.curves)

    def __getitem__(self, name):
        for curve in self.curves:
            if curve.name == str(name):
                return curve
        known = [curve.name for curve in self.curves]
        why = f" (left out: {self.lost[str(name)]})" if str(name) in self.lost else nearest(name, known)
        raise InputError(f"a curve must be named as in the table; {name!r} is not among "
                         f"{', '.join(known[:5])}{', ...' * (len(self) > 5)}{why}: name one of them.")

    def predict(self, x):
        """The loss expected of every curve, [curves, ...] at x [...], beyond the last known of all.

        Example:
          >>> found.predict([2e9, 4e9])  # doctest: +SKIP
        """
        return np.array([curve.predict(x) for curve in self.curves])

    def predict_interval(self, x, level=0.8):
        """Lower and upper ends [curves, ...] of the intervals of a row's loss at x [...], of a level.

        They hold the noise of a row, the drift of the losses and the error in the form of the laws, for a run that
        goes on as it has: under the same schedule, or a constant rate.
        """
        return tuple(np.array(ends) for ends in zip(*(curve.predict_interval(x, level) for curve in self.curves),
                                                    strict=True))

    @property
    def backtest(self):
        """The back-tests of all curves as one `Backtest`."""
        parts = [curve.backtest for curve in self.curves]
        arrays = {field.name: np.concatenate([getattr(part, field.name) for part in parts])
                  for field in dataclasses.fields(validation.Backtest) if field.name not in ("along", "laws")}
        return dataclasses.replace(parts[0], **arrays)

    def to_frame(self):
        """A DataFrame, one row a curve: rows known, last x, noise, width, and the weight of every member."""
        from jaxscale.tables import frame

        return frame([{"curve": curve.name, "rows": len(curve.x), f"last_{self.quantity}": curve.x[-1],
                       "noise": curve.noise, "width": curve.width, **dict(zip(map(_said, curve.members), curve.weights,
                                                                              strict=True))} for curve in self.curves])

    def __str__(self):
        count, weights = len(self), np.mean([curve.weights for curve in self.curves], axis=0)
        lines = [f"{count} learning curve{'s' * (count > 1)} in {self.quantity}; rows scatter by "
                 f"{np.median([curve.noise for curve in self.curves]):.2%}, intervals are "
                 f"{np.median([curve.width for curve in self.curves]):.2f} times as wide as usual (medians)", "",
                 f"{'law, rows left out':<28}{'weight':>7}"]
        lines += [f"{_said(member):<28}{weight:>7.2f}"
                  for member, weight in zip(self.curves[0].members, weights, strict=True)]
        lines += ["", "Forecasts of later rows, each from fewer rows than are known now:", str(self.backtest) if
                  len(self.backtest) else "no back-test: the curves have too few rows", ""]
        lines += [f"{name} is left out: {why}" for name, why in self.lost.items()]
        lines += self.notes
        return "\n".join([*lines, "All holds for runs that go on as they have: the same schedule, or a constant rate."])

    __repr__ = __str__


def learning_curves(runs, x="D", by=None, laws=LAWS, *, until=None, drop_bad=False, progress=None):
    """Foretell the rest of every learning curve of a table -> `LearningCurves`.

    Each of `laws` is fitted to ln loss by least squares, with 0, 15 and 30% of the rows left out at the start, to the
    whole curve and to what lies up to 0.7, 0.5 and 0.35 of its last x. These back-tests weigh the members,

        weight ~ (e_own e_others)^(-6/2) e_usual^-6,

    e the geometric mean error of the member's back-tests over that of all members: on the curve itself, on the table's
    other curves, and as is usual of its early cut; and they say how wide intervals must be, as in `validation`, with a
    `Scale` of learning curves. A curve of over 64 rows is fitted by averages of consecutive rows, as many in each: so
    all rows count as they stand, and noise averages out.

    Args:
      runs: `Runs`, a DataFrame, or a path, with x, loss in nats, and run ids where there are several runs.
      x: what the losses are a function of: "D", "S" or any column.
      by: the columns that tell the curves apart, by default the run ids; without those all rows are one curve.
      laws: law classes of one input, or their names in the catalogue; what has a default (E of "power-law") is freed.
      until: only rows up to this x are known.
      drop_bad: leave out rows that cannot be used.
      progress: called with the number of fits that have ended since the last call.

    Raises:
      InputError: a column is missing, rows cannot be used, a law reads more than one input, or no curve has 6 rows.

    Example:
      >>> import numpy as np, jaxscale as jsc
      >>> D = np.linspace(1e8, 1e10, 50)
      >>> found = jsc.recipes.learning_curves({"D": D, "loss": 2 + (1e9 / D) ** 0.4})  # doctest: +SKIP
      >>> found.predict(2e10)  # doctest: +SKIP
      array([2.30170882])
    """
    laws = (laws,) if isinstance(laws, str | type) else tuple(laws)
    classes = [law_class(law) for law in laws]
    names = [law if isinstance(law, str) else law.__name__ for law in laws]
    curves, lost, notes = _curves(read_runs(runs), x, by, classes, until, drop_bad)
    members = tuple(itertools.product(names, EARLY))
    fitted = [_fitted(Law, list(curves.values()), progress) for Law in classes]
    able = {}
    for i, (name, (at, loss)) in enumerate(curves.items()):
        cuts = _cuts(at, np.log(loss), np.concatenate([fit[i][1] for fit in fitted], axis=1))
        if cuts and cuts[-1].at == at[-1]:
            able[name] = at, loss, tuple(fit[i][0] for fit in fitted), cuts
        else:
            lost[name] = "its rows do not tell the constants of any law"
    if not able:
        raise InputError(f"a curve must tell the constants of a law, and none of {len(lost)} does "
                         f"({next(iter(lost.values()))}): add rows, or pass simpler laws=.")
    errors = {name: _relative_errors(cuts[:-1], at, np.log(loss)) for name, (at, loss, _, cuts) in able.items()}
    found = []
    for name, (at, loss, own, cuts) in able.items():
        others = [error for other, error in errors.items() if other != name and error is not None]
        judge = functools.partial(_judge, others=np.mean(others, axis=0) if others else None, members=members)
        weights, width = judge(cuts[:-1], at, np.log(loss), len(members), SCALE)
        tested = validation.backtest_of(cuts[:-1], at, np.log(loss), [*map(_said, members)], x,
                                        np.arange(1, len(at) + 1), SCALE, judge)
        found.append(Curve(name, x, at, loss, members, own, cuts, weights, width, tested))
    return LearningCurves(x, tuple(found), lost, notes)


def _curves(runs, x, by, classes, until, drop_bad):
    """{name: (x, loss) [n] by rising x}, {name: why it is left out}, notes. Raises InputError."""
    if not classes:
        raise InputError("laws= must name at least one law; it is empty: laws=('power-law',), say.")
    for Law in classes:
        if len(Law.inputs) != 1:
            raise InputError(f"learning curves want laws of one input, and {Law.__name__} reads "
                             f"{', '.join(Law.inputs)}: 'power-law', say.")
    if not isinstance(until, float | int | None) or isinstance(until, bool):
        raise InputError(f"until= must be a number, the last {x} that is known, not {until!r}: correct it.")
    if by or "run" in runs.groups or "run" in runs.columns:
        keys, places = runs.grouped(by or "run")
    elif "run" in runs.names:  # arrays, of whose ids the codes are kept
        keys, places = zip(*(({"run": i}, np.flatnonzero(runs.run == i)) for i in np.unique(runs.run)), strict=True)
    else:
        keys, places = [{"run": "all rows"}], [np.arange(len(runs))]
    code = np.zeros(len(runs))
    for i, rows in enumerate(places):
        code[rows] = i + 1
    table = dataclasses.replace(runs, columns=runs.columns | {"curve number": code}).select((x, "curve number"),
                                                                                            drop_bad=drop_bad)
    at, loss, code = table.columns[x], table.columns["loss"], table.columns["curve number"].astype(int) - 1
    known = at <= (np.inf if until is None else until)
    if not known.any():
        raise InputError(f"until= must leave rows to fit; the first {x} is {at.min():g} and until= is {until:g}: pass "
                         "a later one.")
    curves, lost = {}, {}
    for i in np.unique(code[known]):
        rows = np.flatnonzero(known & (code == i))
        rows = rows[np.argsort(at[rows], kind="stable")]
        name = " / ".join(map(str, keys[i].values()))
        if len(rows) - int(max(EARLY) * len(rows)) < LEAST or len(np.unique(at[rows])) < LEAST:
            lost[name] = f"{len(rows)} rows at {len(np.unique(at[rows]))} different {x} are too few: 6 are wanted"
        else:
            curves[name] = at[rows], loss[rows]
    if not curves:
        name, why = next(iter(lost.items()))
        raise InputError(f"a learning curve must have 6 rows or more, and none of {len(lost)} has them (curve {name}: "
                         f"{why}): add rows, or name what tells the curves apart with by=.")
    mixed = [name for name, (at, _) in curves.items() if np.any(np.diff(at) == 0)]
    notes = [f"{x} repeats in {', '.join(mixed[:5])}{', ...' * (len(mixed) > 5)}: if several runs are in a curve, name "
             "what tells them apart with by="] if mixed else []
    return curves, lost, (*table.notes, *notes)


def _checked(x, quantity, curve):
    """x as an array of numbers beyond the curve's last."""
    try:
        values = np.asarray(x, float)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    wrong = values[~(np.isfinite(values) & (values >= curve.x[-1]))]
    if not values.size:
        raise InputError(f"a forecast wants one {quantity} or more, not none.")
    if len(wrong):
        raise InputError(f"a forecast wants numbers {quantity} beyond the last known, {curve.x[-1]:g} of curve "
                         f"{curve.name}; {wrong[0]:g} is not: pass a later {quantity}, or ask each of .curves for "
                         "its own.")
    return values


def _said(member):
    name, early = member
    return f"{name}, {early:.0%}"


def _judge(cuts, along, observed, laws, scale, others, members):
    """Weights [members] and width as `validation.judge`, the weights with the other curves' and the usual errors."""
    known = [error for error in (_relative_errors(cuts, along, observed), others) if error is not None]
    error = np.log([EARLY[early] for _, early in members]) + (np.mean(known, axis=0) if known else 0.0)
    weights = np.exp(-SHARP * (error - error.min()))
    return validation.judge(cuts, along, observed, laws, scale, weights / weights.sum())


def _relative_errors(cuts, along, observed):
    """ln of the mean |error| of each member's back-tests, over all members' [members]; None where there is none."""
    found = []
    for cut in cuts:
        at = validation.ahead(cut, along) & np.isfinite(observed)
        if at.any():
            error = np.log(np.maximum(np.mean(np.abs(observed[at] - cut.forecasts[:, at]), axis=1), 1e-4))
            found.append(np.where(np.isnan(error), np.nanmean(error), error))  # not fitted: as one like the others
    return np.mean(found, axis=0) - np.mean(found) if found else None


def _ends(x):
    """How many rows lie up to each of `SHORTER`, where that is worth a fit, rising."""
    ends = np.unique(np.searchsorted(x, np.multiply(SHORTER, x[-1] * (1 + 1e-9)), "right"))
    return [int(end) for end in ends if end - int(max(EARLY) * end) >= LEAST]


def _cuts(x, observed, forecasts):
    """`Cut`s of forecasts [ends, members, n] of ln loss."""
    found = []
    for end, each in zip(_ends(x), forecasts, strict=True):
        able = np.isfinite(each).all(axis=1)
        if able.any():
            late = observed[int(max(EARLY) * end):end]
            noise = np.sqrt(np.mean(np.diff(late, 2) ** 2) / 6)  # second differences of noise alone: 6 sd^2
            found.append(validation.Cut(float(x[end - 1]), np.where(able[:, None], each, np.nan), float(noise)))
    return tuple(found)


def _fitted(Law, curves, progress):
    """For each curve (x, loss): the law of the whole, [early cuts], and ln loss [ends, early cuts, n] by every fit."""
    parts = [(i, int(share * end), end) for i, (x, _) in enumerate(curves) for end in _ends(x) for share in EARLY]
    free = tuple(name for name, about in Law.constants.items() if about.default is not None)
    many = fit_every_group(Law, _stacked(Law.inputs[0], curves, parts), "fit", objective=squares(), errors=None,
                           free=free, progress=progress)
    constants = {name: getattr(many.law, name) for name in Law.constants}
    lengths = [len(curves[i][0]) for i, *_ in parts]
    of, x = np.repeat(np.arange(len(parts)), lengths), np.concatenate([curves[i][0] for i, *_ in parts])
    filled = np.minimum(np.arange(max(1024, 1 << (len(x) - 1).bit_length())), len(x) - 1)  # few shapes to compile
    with jax.enable_x64(True):
        losses = _elementwise(Law(**{name: of_fit[of[filled]] for name, of_fit in constants.items()}), x[filled])
    with np.errstate(all="ignore"):
        each = np.split(np.log(np.asarray(losses, np.float64))[:len(x)], np.cumsum(lengths)[:-1])
    found, start = [], 0
    for x, _ in curves:
        stop = start + len(_ends(x)) * len(EARLY)
        law = Law(**{name: of_fit[stop - len(EARLY):stop] for name, of_fit in constants.items()})
        found.append((law, np.reshape(each[start:stop], (-1, len(EARLY), len(x)))))
        start = stop
    return found


_elementwise = jax.jit(lambda law, x: law(x))


def _stacked(name, curves, parts):
    """Rows start to end of curves as `Runs` of `ROWS` rows a fit: geometric means of consecutive rows, filled up."""
    whole = np.zeros((3, len(parts), ROWS))
    for k, (i, start, end) in enumerate(parts):
        edges = np.linspace(start, end, min(end - start, ROWS) + 1).astype(int)
        counts = np.diff(edges)
        for into, values in zip(whole[:2], curves[i], strict=True):
            means = np.exp(np.add.reduceat(np.log(values[:end]), edges[:-1]) / counts)
            into[k, :len(counts)], into[k, len(counts):] = means, means[-1]
        whole[2, k, :len(counts)] = counts
    x, loss, weights = whole.reshape(3, -1)
    return Runs.from_columns({name: x, "loss": loss, "fit": np.repeat(np.arange(len(parts)), ROWS)}, weights=weights)
