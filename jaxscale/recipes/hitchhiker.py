"""The study of Choshen, Zhang & Andreas 2024 on a table of model families: which runs foretell the largest best?"""

import dataclasses

import numpy as np

from jaxscale.errors import InputError
from jaxscale.groups import fit_every_group
from jaxscale.laws import Chinchilla, given
from jaxscale.objectives import huber
from jaxscale.prediction import evaluate
from jaxscale.recipes.pooled import borrowed_constants
from jaxscale.runs import Runs
from jaxscale.tables import read_runs
from jaxscale.task import law_class

END = 0.7  # of a target's tokens, from which on its losses are to be foretold, as in the paper
NUMBERS = (1, 2, 3, 5, 8)  # of sizes that a window holds; and all up to its largest
POOLED = 8  # checkpoints of a run in the pooled fit
WAYS = ("own", "pooled", "borrowed", "best", "prior")
SCALES = (1.0, 2.0, 4.0, 8.0, 16.0, 64.0, np.inf)


@dataclasses.dataclass(frozen=True, eq=False)
class Hitchhiker:
    """How far each way of fitting a family's smaller models misses its largest.

    `columns` is the table, one row a fit, as arrays [fits] by name:
        family: its name; target: N of the largest model, which no fit of the family sees.
        models, smallest, largest: how many sizes were fitted, consecutive ones, and the ends of their N.
        scale_up: target / largest.
        rows: "checkpoints", or "final" for the last row of each run alone.
        drop: what was left out of the start of each run, nan for final losses.
        way: "own" constants alone; "pooled" holds `share` at the other families' pooled fit; "prior" takes `borrow`
            from the others with their spread; "borrowed" holds `borrow` at the others' values; "best" is no law, but
            the least loss among the rows.
        observed, predicted: the target's loss at its last row, nats; are: the absolute relative error, the mean over
            the rows from 0.7 of its tokens on.
        reason: why there is no fit, else None.

    Attributes:
        law: the law's class. share, borrow: names of constants.
        values: family -> {constant: (value, sd of its logarithm between families)}, from the other families.
        fits: how many laws were fitted in all, those behind the pooled constants too.
        notes: what a reader should know.
    """

    law: type
    share: tuple[str, ...]
    borrow: tuple[str, ...]
    columns: dict
    values: dict
    fits: int
    notes: tuple[str, ...]

    def to_frame(self):
        """`columns` as a DataFrame."""
        from jaxscale.tables import frame

        return frame(self.columns)

    def where(self, **settings):
        """The mask [fits] of the rows with these settings, as in where(way="own", rows="final"), that have a fit."""
        kept = np.isfinite(self.columns["are"])
        for name, value in settings.items():
            kept &= (self.columns[name] == value) | (name == "drop") & (self.columns["rows"] == "final")
        return kept

    def median(self, mask):
        """The median over families of the median ARE of each: every family counts once; nan where there is none."""
        found = [np.median(self.columns["are"][mask & (self.columns["family"] == family)])
                 for family in np.unique(self.columns["family"][mask])]
        return float(np.median(found)) if found else np.nan

    def compared(self, name, **settings):
        """{value of the column `name`: median ARE}, over the windows that could be fitted with every one of the values.

        Example: compared("rows", way="own", drop=0.1), compared("drop", way="own", rows="checkpoints").
        """
        windows = np.array(["|".join(str(self.columns[key][i]) for key in ("family", "smallest", "largest"))
                            for i in range(len(self.columns["are"]))])
        mask = self.where(**settings)
        values = list(dict.fromkeys(self.columns[name][mask].tolist()))
        sets = [{*windows[mask & (self.columns[name] == value)]} for value in values]
        common = np.isin(windows, list(set.intersection(*sets))) if sets else mask
        return {value: self.median(mask & common & (self.columns[name] == value)) for value in values}

    def by_scale(self, **settings):
        """[(lower end, upper end, fits, median ARE)] by the scale-up from the largest model fitted to the target."""
        mask, found = self.where(**settings), []
        for low, high in zip(SCALES[:-1], SCALES[1:], strict=True):
            inside = mask & (self.columns["scale_up"] > low) & (self.columns["scale_up"] <= high)
            if inside.any():
                found.append((low, high, int(inside.sum()), self.median(inside)))
        return found

    def __str__(self):
        drops = np.unique(self.columns["drop"][self.columns["rows"] == "checkpoints"])
        main = {"rows": "checkpoints", "drop": float(drops[min(1, len(drops) - 1)])}
        families, ways = len(np.unique(self.columns["family"])), dict.fromkeys(self.columns["way"].tolist())
        lines = [f"{self.fits} fits of {self.law.__name__} to {families} families; absolute relative error (ARE) at "
                 "the largest model's end, medians over families", "",
                 "own constants: checkpoints or final losses alone, on the same models"]
        pair = self.compared("rows", way="own", drop=main["drop"])
        lines += [f"  {rows:20} {are:7.2%}" for rows, are in pair.items()]
        lines.append("own constants, checkpoints: left out of the start of each run")
        lines += [f"  {_dropped(drop):20} {are:7.2%}"
                  for drop, are in self.compared("drop", way="own", rows="checkpoints").items()]
        lines.append(f"checkpoints, {_dropped(main['drop'])} left out, by the number of sizes fitted")
        counts = np.unique(self.columns["models"])
        lines.append(f"  {'':20} " + " ".join(f"{count:7d}" for count in counts))
        for way in ways:
            each = [self.median(self.where(way=way, models=count, **main)) for count in counts]
            lines.append(f"  {way:20} " + " ".join("      -" if np.isnan(are) else f"{are:7.2%}" for are in each))
        lines.append("the same by scale-up from the largest size fitted")
        ends = [(low, high) for low, high in zip(SCALES[:-1], SCALES[1:], strict=True)]
        lines.append(f"  {'':20} " + " ".join(f"{_scale(*pair):>7}" for pair in ends))
        for way in ways:
            found = {(low, high): are for low, high, _, are in self.by_scale(way=way, **main)}
            lines.append(f"  {way:20} " + " ".join(f"{found[at]:7.2%}" if at in found else "      -" for at in ends))
        return "\n".join([*lines, *self.notes])


def hitchhiker(table, law=Chinchilla, *, family="family", drops=(0.0, 0.1, 0.3), share=("alpha", "beta"),
               borrow=("alpha", "A"), ways=WAYS[:4], points=20, objective=None):
    """Fit every family's smaller models in every way, and score each fit on the family's largest -> `Hitchhiker`.

    Choshen, Zhang & Andreas 2024 (arXiv 2410.11840) ask how best to estimate a scaling law: from checkpoints or from
    final losses, with or without the start of runs, from many small models or few large ones, and whether one model
    will do once constants are borrowed from other families. Here each family's windows of consecutive sizes below its
    largest are fitted with each of these choices, all in a few calls of `fit_groups`. What is borrowed comes from the
    other families alone, and no fit sees the target: see `borrowed_constants`.

    Args:
        table: a table of runs, as `read_runs` takes, with N, D, loss in nats, run ids and a column of families. What is
            borrowed has the others' units: a family in bits is not foretold by one in nats.
        law: a law class of N and D, or its name in the catalogue.
        family: the column of families.
        drops: what is left out of the start of each run: below 1 a share of its tokens, else tokens.
        share: one or two constants that all families have in common.
        borrow: those that one model is to borrow; alpha and A, as in the paper, leave what its checkpoints tell.
        ways: those of "own", "pooled", "borrowed", "best" and "prior" that are tried. "prior" takes minutes where the
            others take seconds: a prior is weighed against the noise of a fit without it, which one size cannot tell.
        points: checkpoints of a run that are fitted at most, evenly spaced in log D.
        objective: as in `fit`; Huber's (1e-3) of log residuals.

    Raises:
        InputError: no column of run ids, fewer than two families with two sizes, names that are no constants.

    >>> import numpy as np, jaxscale as jsc
    >>> rows = [{"family": E, "run": f"{E} {N}", "N": N, "D": D, "loss": E + 400 / N**0.34 + 410 / D**0.28}
    ...         for E in (1.5, 1.7, 2.0) for N in (1e7, 4e7, 1.6e8, 1e9) for D in np.geomspace(1e9, 2e10, 12)]
    >>> found = jsc.recipes.hitchhiker(rows, drops=(0.1,), ways=("borrowed",), borrow=("alpha", "A", "beta"),
    ...                                objective=jsc.squares(log=False))
    >>> bool(found.median(found.where(way="borrowed", models=1)) < 0.01)
    True
    """
    Law = law_class(law)
    share, borrow, objective = tuple(share), tuple(borrow), objective or huber()
    runs, names = _checked(table, Law, family, drops, share, borrow, ways)
    settings = [*(("checkpoints", drop) for drop in drops), ("final", np.nan)]
    short = [name for name, places in names.items() if np.ptp(runs.columns["N"][places]) == 0]
    studied = {name: _Family(runs.take(places), drops, points) for name, places in names.items() if name not in short}
    if len(studied) < 2:
        raise InputError(f"hitchhiker wants two or more families with two or more sizes, to borrow from one what the "
                         f"other lacks; {len(studied)} of {len(names)} have them: name the families with family=.")
    values, fits = borrowed_constants(Law, {name: one.whole for name, one in studied.items()}, share, borrow,
                                      objective)
    cases = [(name, window, setting) for name, one in studied.items() for window in one.windows for setting in settings]
    stack = _stacked([studied[name].of(window, setting) for name, window, setting in cases])
    family_of = np.array([name for name, *_ in cases])
    columns = {"family": family_of, "target": np.array([studied[name].sizes[-1] for name in family_of])}
    sizes = [studied[name].sizes[window] for name, window, _ in cases]
    columns |= {"models": np.array([len(fitted) for fitted in sizes]), "smallest": np.array([own[0] for own in sizes]),
                "largest": np.array([own[-1] for own in sizes])}
    columns["scale_up"] = columns["target"] / columns["largest"]
    columns |= {name: np.array([setting[j] for *_, setting in cases]) for j, name in enumerate(("rows", "drop"))}
    every = []
    for way in ways:
        scores, reasons = np.full((3, len(cases)), np.nan), np.full(len(cases), None, object)
        if way == "best":
            least = np.full(len(cases), np.inf)
            np.minimum.at(least, stack.columns["fit"].astype(int), stack.columns["loss"])
        else:
            held = {"pooled": share, "own": ()}.get(way, borrow)
            laws, reasons = _fitted(Law, stack, family_of, values, way, held, objective)
        for name, one in studied.items():
            mine = family_of == name
            scores[:, mine] = one.score(least[mine] if way == "best" else Law(
                **{constant: of[mine] for constant, of in laws.items()}))
        scores = dict(zip(("observed", "predicted", "are"), scores, strict=True))
        every.append(columns | {"way": np.full(len(cases), way)} | scores | {"reason": reasons})
    columns = {name: np.concatenate([part[name] for part in every]) for name in every[0]}
    failed = np.sum(~np.isfinite(columns["are"]))
    notes = [f"{failed} of {len(columns['are'])} fits were not possible: their rows cannot tell the constants apart "
             "(those of one size not alpha)"] if failed else []
    notes += [f"of one size, and left out: {', '.join(short)}"] if short else []
    return Hitchhiker(Law, share, borrow, columns, values, fits + int(np.sum(columns["way"] != "best")), tuple(notes))


class _Family:
    """A family's rows under each setting, its sizes by rising N, and the windows of sizes that are fitted."""

    def __init__(self, runs, drops, points):
        N, D = runs.columns["N"], runs.columns["D"]
        self.sizes = np.unique(N)
        target = N == self.sizes[-1]
        last = np.zeros(runs.run.max() + 1)
        np.maximum.at(last, runs.run, D)
        end = target & (D >= END * last[runs.run])
        self.tail = {name: values[end] for name, values in runs.columns.items()}
        self.last = int(np.argmax(self.tail["D"]))
        below = runs.where(~target)
        self.rows = {("checkpoints", drop): _after(below, drop, points) for drop in drops}
        self.rows["final", np.nan] = below.thin(1)
        self.whole = _after(runs, drops[min(1, len(drops) - 1)], min(points, POOLED))
        count = len(self.sizes) - 1
        spans = {(stop - number, stop) for stop in range(1, count + 1) for number in (*NUMBERS, stop) if number <= stop}
        self.windows = [slice(*span) for span in sorted(spans)]

    def of(self, window, setting):
        """The rows of the sizes in a window."""
        rows, sizes = self.rows[setting], self.sizes[window]
        return rows.take(np.flatnonzero((rows.columns["N"] >= sizes[0]) & (rows.columns["N"] <= sizes[-1])))

    def score(self, laws):
        """The target's last loss, the laws' there, and their mean absolute relative error over its end: [3, laws].

        laws: a batch of laws, or an array of constant losses.
        """
        found = (np.repeat(laws[:, None], len(self.tail["loss"]), axis=1) if isinstance(laws, np.ndarray) else
                 evaluate(laws, {name: self.tail[name] for name in laws.inputs}))
        error = np.mean(np.abs(found / self.tail["loss"] - 1), axis=1)
        return np.stack([np.full(len(found), self.tail["loss"][self.last]), found[:, self.last], error])


def _checked(table, Law, family, drops, share, borrow, ways):
    """The runs with N, D and loss, and {family: places of its rows}. Raises InputError."""
    runs = read_runs(table)
    if {*Law.inputs} != {"N", "D"}:
        raise InputError(f"hitchhiker studies laws of N and D, and {Law.__name__} reads {', '.join(Law.inputs)}: "
                         "'chinchilla', say.")
    if not drops or not all(0 <= drop < np.inf for drop in drops):
        raise InputError(f"drops must be numbers, 0 or more, not {drops!r}: below 1 a share of each run, else tokens.")
    known = dict.fromkeys(Law.constants).keys()
    if not (share and len(share) <= 2 and {*share} <= known and borrow and {*borrow} < known):
        raise InputError(f"share= must be one or two constants of {Law.__name__} ({', '.join(known)}), and borrow= "
                         f"some, but not all; they are {share} and {borrow}.")
    if not ways or not {*ways} <= {*WAYS}:
        raise InputError(f"ways= must be some of {', '.join(WAYS)}, not {ways!r}.")
    if "run" not in runs.names:
        raise InputError("hitchhiker takes checkpoints of runs, so it needs their ids: name the column with "
                         "read_runs(table, run=...).")
    keys, places = runs.grouped(family)
    names = [" / ".join(str(value) for value in key.values()) for key in keys]
    return runs.select(("N", "D")), dict(zip(names, places, strict=True))


def _after(runs, drop, points):
    """The runs without their start, a share of each where it is below 1, else tokens; of the rest at most `points`."""
    rest = runs.after_warm_up(**{"fraction" if drop < 1 else "tokens": drop})
    return rest.thin(points) if len(rest) else rest


def _stacked(parts):
    """Tables as one, with a column `fit` of their numbers; rows of weight zero fill each up to one of a few lengths, so
    that few shapes are compiled."""
    chosen = [np.minimum(np.arange(_filled(len(part))), len(part) - 1) for part in parts]
    columns = {name: np.concatenate([part.columns[name][rows] for part, rows in zip(parts, chosen, strict=True)])
               for name in ("N", "D", "loss")}
    of = np.repeat(np.arange(len(parts)), [len(rows) for rows in chosen])
    weights = np.concatenate([np.arange(len(rows)) < len(part) for part, rows in zip(parts, chosen, strict=True)])
    return Runs.from_columns(columns | {"fit": of}, run=of, weights=weights.astype(float))


def _filled(rows):
    """The next of 64, 256, 1024, ...; 0 for none."""
    return 0 if rows == 0 else 64 * 4 ** max(0, int(np.ceil(np.log(rows / 64) / np.log(4) - 1e-9)))


def _fitted(Law, stack, family_of, values, way, names, objective):
    """{constant: [fits]} and reasons [fits] of one fit a table in the stack, `names` from the other families."""
    of, count = stack.columns["fit"].astype(int), len(family_of)
    found, reasons = {name: np.full(count, np.nan) for name in Law.constants}, np.full(count, "no rows", object)

    def enter(many):
        at = np.array([int(key["fit"]) for key in many.keys])
        reasons[at] = many.reasons
        for name in many.Law.constants:
            found[name][at] = getattr(many.law, name)

    how = {"objective": objective, "errors": None}
    if way == "prior":  # one call a family
        for family, known in values.items():
            mine = stack.where((family_of == family)[of])
            enter(fit_every_group(Law, mine, "fit", prior={name: known[name] for name in names}, **how))
    elif way == "own":
        enter(fit_every_group(Law, stack, "fit", **how))
    else:
        found |= {name: np.array([values[family][name][0] for family in family_of]) for name in names}
        columns = stack.columns | {f"{name}_given": found[name][of] for name in names}
        enter(fit_every_group(given(Law, names), dataclasses.replace(stack, columns=columns), "fit", **how))
    return found, reasons


def _dropped(drop):
    return "nothing" if drop == 0 else f"the first {drop:.0%}" if drop < 1 else f"the first {drop:.3g} tokens"


def _scale(low, high):
    return f"> {low:g}x" if high == np.inf else f"<= {high:g}x"
