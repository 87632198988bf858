"""A table of training runs as checked arrays: the one place where input is validated.

`Runs.from_columns` takes arrays, `jaxscale.read_runs` files and data frames. `runs.select(law.inputs)` is the front
door of every fit: it returns exactly the columns that a law reads, works out those that others give, and says what it
chose (`notes`) and what it left out (`dropped`). Columns that are not needed are never looked at.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from jaxscale.errors import InputError, nearest

# whole = factor * product of parts; a missing quantity is worked out by the first that can
IDENTITIES = (("D", 1.0, ("S", "B")), ("D", 1.0, ("M", "N")), ("C", 6.0, ("N", "D")))
USUAL = {"N": (1e3, "parameters"), "D": (1e6, "tokens"), "B": (4096, "tokens per step")}
STEADY = 0.2  # robust sd of ln(whole / product) up to which a column is the same thing counted in another way
OFF = 3.0  # factor beyond which it is not
MOST_NATS = 15.0  # a uniform guess among 3 million tokens
SOME, NEARLY_ALL = 0.1, 0.9  # shares of rows above it that are pointed out, and that make a table one of perplexities


@dataclass(frozen=True, eq=False, repr=False)
class Runs:
    """n rows of training runs, their weights, and what was chosen and left out.

    columns: quantity -> float64 [n]: N (parameters), D (tokens), S (steps), B (tokens per step), C (FLOPs), M = D/N,
        loss (nats per token), and every other numeric column under its own name
    run: [n] codes 0, 1, ... of the training runs; a row without run id is its own run
    weights: [n] factor of a row's term in the objective (2 = the row twice)
    row: [n] number of the row in the source, 1 = first data row
    groups: name -> text [n], the columns that are not numbers
    source: file, or "arrays"
    notes: choices made and rows to look at, one sentence each
    dropped: (row, reason) of every row left out
    ambiguous: quantity -> the columns that could all be it
    names: quantity -> its column's name in the source; "run" is in it if the source has run ids

    >>> runs = Runs.from_columns({"N": [1e6, 1e7], "C": [6e15, 6e17], "loss": [4.1, 3.2]})
    >>> runs.select(("N", "D")).columns["D"].tolist()
    [1000000000.0, 10000000000.0]
    """

    columns: dict[str, np.ndarray]
    run: np.ndarray
    weights: np.ndarray
    row: np.ndarray
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    source: str = "arrays"
    notes: tuple[str, ...] = ()
    dropped: tuple[tuple[int, str], ...] = ()
    ambiguous: dict[str, tuple[str, ...]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_columns(cls, columns: Mapping, *, run=None, weights=None, source: str = "arrays") -> "Runs":
        """Runs from arrays of equal length n.

        columns: name -> numbers [n], or text [n] (an error only where numbers are needed)
        run: run ids [n], numbers or text; None: every row is its own run
        weights: numbers >= 0 [n], or "run": every run counts the same
        Raises InputError for unequal lengths, no rows, arrays that are not 1-D, and weights that cannot be used.

        >>> len(Runs.from_columns({"N": [10**12], "D": [2e13], "loss": [1.9]}))
        1
        """
        equal = isinstance(weights, str) and weights == "run"
        beside = {"run=": run, "weights=": None if equal else weights}
        beside = {name: _numbers_or_text(name, values) for name, values in beside.items() if values is not None}
        read = {str(name): _numbers_or_text(f"column {name!r}", values) for name, values in columns.items()}
        sizes = {name: len(text if numbers is None else numbers) for name, (numbers, text) in (read | beside).items()}
        if not any(sizes.values()):
            raise InputError(f"a table of runs must have at least one row; {source} has none: check what was read.")
        (first, n), *others = sizes.items()
        for name, size in others:
            if size != n:
                raise InputError(f"columns must have equal lengths; {first!r} has {n} rows and {name!r} has {size}: "
                                 "take both from one table.")
        runs = cls(columns={name: numbers for name, (numbers, _) in read.items() if numbers is not None},
                   run=_run_codes(*beside["run="]) if "run=" in beside else np.arange(n),
                   weights=_usable_weights(*beside["weights="]) if "weights=" in beside else np.ones(n),
                   row=np.arange(1, n + 1),
                   groups={name: text for name, (_, text) in read.items() if text is not None},
                   source=source, names={"run": "run"} if "run=" in beside else {})
        return runs.per_run() if equal else runs

    def __len__(self) -> int:
        return len(self.row)

    def __repr__(self) -> str:
        return f"Runs({self.source}: {len(self)} rows of {len(np.unique(self.run))} runs; {', '.join(self.columns)})"

    # ---- the columns that a law reads

    def select(self, inputs: Sequence[str], output: str = "loss", *, drop_bad: bool = False,
               ratios: Sequence[str] = (), signed: Sequence[str] = ()) -> "Runs":
        """Exactly the columns a law needs: float64, finite and positive, at least one row.

        Any two of C, N, D give the third (C = 6 N D); so do D, S, B (D = S B) and M, D, N (M = D/N). Rows that repeat
        another, diverged, saw their data before or lie inside a decaying schedule are kept and pointed out in `notes`.

        inputs, output: names of quantities or columns
        drop_bad: leave out rows that cannot be used, listed in `dropped`, instead of raising
        ratios: the inputs that are parts of one whole, from 0 to 1, of sum 1 (to 1%)
        signed: the inputs that may be any finite number
        Raises InputError for a column that is missing, ambiguous or text, for rows that cannot be used, and for columns
        that contradict each other.

        >>> runs = Runs.from_columns({"N": [1e6, 1e7], "D": [1e9, 1e9], "loss": [4.1, float("nan")]})
        >>> runs.select(("N", "D"), drop_bad=True).dropped
        ((2, 'loss = nan is not finite'),)
        """
        needed = tuple(dict.fromkeys((*inputs, output)))
        read = {name: (self._find(name) or self._refuse(name))[1] for name in needed}
        used = {*sum(read.values(), ())}
        if "C" in needed and {"N", "D"} & used and self._has("N") and self._has("D"):
            read["C"] = ("N", "D")  # a law of C and N, D or M must see one way of counting
        reasons, counted = self._disagreements({*used, *map(self._key, needed)}, needed)
        for name in dict.fromkeys(sum(read.values(), ())):
            is_ratio, is_signed = (name in map(self._key, those) for those in (ratios, signed))
            reasons = self._faults(name, drop_bad, is_ratio, is_signed) | reasons
        if ratios:
            total = sum(self.columns[self._key(name)] for name in ratios)
            off = np.flatnonzero(np.abs(total - 1) > 0.01)
            if len(off) and not drop_bad:
                _refuse_rows("the ratios of a mix must sum to 1", self.row[off], f"first sum {total[off[0]]:g}")
            reasons = {int(place): f"{' + '.join(ratios)} = {total[place]:g} is not 1" for place in off} | reasons
        if reasons and not drop_bad:
            _refuse_rows("columns must be in agreement", self.row[sorted(reasons)], reasons[min(reasons)])
        dropped = tuple((int(self.row[place]), reasons[place]) for place in sorted(reasons))
        kept = self.where(~np.isin(np.arange(len(self)), list(reasons)))
        if not len(kept):
            why = "; ".join(f"row {row}: {reason}" for row, reason in dropped[:3]) or "all were left out before"
            raise InputError(f"at least one usable row is needed; the table has none ({why}): correct it.")
        columns = {name: kept._find(name)[0] for name in needed}
        if read.get("C") == ("N", "D"):
            columns["C"] = 6 * kept.columns["N"] * kept.columns["D"]
        above = columns["loss"] > MOST_NATS if output == "loss" else np.zeros(1, bool)
        if above.mean() > NEARLY_ALL:
            rows = f"all {len(kept)} rows are" if above.all() else f"{above.sum()} of {len(kept)} rows are"
            raise InputError(f"{self._label('loss')} must be in nats per token; {rows} above {MOST_NATS:g} (first "
                             f"value {columns['loss'][above][0]:g}): perplexities? pass unit='perplexity' (--unit "
                             "perplexity), or leave out what diverged.")
        derived = [f"{name} is worked out from {' and '.join(map(self._label, leaves))}"
                   for name, leaves in read.items() if leaves != (self._key(name),)]
        high = (f"{above.sum()} of {len(kept)} rows have a loss above {MOST_NATS:g} nats: is it perplexity, or did "
                "they diverge?",) if above.mean() > SOME else ()
        notes = (*self.notes, *high, *derived, *counted, *kept._remarks(columns, inputs, output))
        groups = {name: text for name, text in kept.groups.items() if name not in used}
        return replace(kept, columns=columns, groups=groups, notes=tuple(dict.fromkeys(notes)),
                       dropped=self.dropped + dropped, ambiguous={})

    def _key(self, name: str) -> str:
        """Where a column is kept: under the name given, or as the quantity that it was taken for."""
        if name in self.columns or name in self.groups:
            return name
        return next((quantity for quantity, column in self.names.items() if column == name), name)

    def _label(self, name: str) -> str:
        return f"column {self.names.get(name, name)!r}"

    def _has(self, name: str) -> bool:
        """Whether a column has numbers: one that is empty counts as absent."""
        return name in self.columns and not np.isnan(self.columns[name]).all()

    def _there(self) -> list[str]:
        return [self.names.get(name, name) for name in dict.fromkeys((*self.columns, *self.groups))]

    def _find(self, name: str, barred: frozenset = frozenset()) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Values [n] of a quantity and the columns they come from: its own, or those that give it."""
        name = self._key(name)
        if name in self.ambiguous:
            return None
        if self._has(name):
            return self.columns[name], (name,)
        for whole, factor, parts in IDENTITIES:
            if name not in (whole, *parts):
                continue
            others = [other for other in (whole, *parts) if other != name]
            found = [None if other in barred else self._find(other, barred | {name}) for other in others]
            if None in found:
                continue
            (one, left), (other, right) = found
            with np.errstate(all="ignore"):  # what cannot be used is named by the columns it comes from
                values = factor * one * other if name == whole else one / (factor * other)
            return values, tuple(dict.fromkeys(left + right))
        return None

    def has(self, name: str) -> bool:
        """Whether a quantity is there or follows from others."""
        return self._find(name) is not None

    def _refuse(self, name: str):
        """Say why a column that is needed cannot be had."""
        pairs = [[other for other in (whole, *parts) if other != name] for whole, _, parts in IDENTITIES
                 if name in (whole, *parts)]
        key = self._key(name)
        for quantity in (key, *sum(pairs, [])):
            if quantity in self.ambiguous:
                columns = self.ambiguous[quantity]
                raise InputError(f"{quantity} must be one column; it could be {' or '.join(map(repr, columns))}: "
                                 f"choose with columns={{{quantity!r}: {columns[0]!r}}} (--column "
                                 f"{quantity}={columns[0]}).")
        if key in self.groups:
            raise InputError(f"{self._label(key)} must be numbers; row {self.row[0]} is the text "
                             f"{str(self.groups[key][0])!r}: write numbers, or choose another column for {name} "
                             "(--column).")
        ways = f" (or {' or '.join(' and '.join(pair) for pair in pairs)})" if pairs else ""
        state = "is empty" if key in self.columns else "is missing"
        there = [label for label in self._there() if label != self.names.get(key, key)]
        raise InputError(f"{self._label(key)} is needed{ways} and {state}; the table has {', '.join(there)}"
                         f"{nearest(name, there)}: name it with columns={{{name!r}: ...}} (--column {name}=...).")

    def _faults(self, name: str, drop_bad: bool, ratio: bool = False, signed: bool = False) -> dict[int, str]:
        """Place -> reason of rows without a finite positive number, or ratio, in a column; an error unless dropped."""
        values, text = self.columns[name], self.groups.get(name)
        wanted, able = ("from 0 to 1", (values >= 0) & (values <= 1)) if ratio else ("positive", signed | (values > 0))
        places = np.flatnonzero(~(np.isfinite(values) & able))
        what = wanted if np.isfinite(values[places]).all() else f"finite and {wanted}" if text is None else "numbers"
        shown = [f"{values[place]:g}" if text is None else repr(str(text[place])) for place in places]
        if len(places) and not drop_bad:
            _refuse_rows(f"{self._label(name)} must be {what}", self.row[places], f"first value {shown[0]}")
        kind = "finite" if text is None else "a number"
        return {int(place): f"{self.names.get(name, name)} = {value} is not "
                            f"{wanted if np.isfinite(values[place]) else kind}"
                for place, value in zip(places, shown, strict=True)}

    def _disagreements(self, used: set[str], needed: Sequence[str]) -> tuple[dict[int, str], list[str]]:
        """Where the table has all of an identity and two are used: place -> reason of odd rows, and notes."""
        odd, notes = {}, []
        for whole, factor, parts in IDENTITIES:
            three = {whole, *parts}
            found = [self._find(name, frozenset(three - {name})) for name in (whole, *parts)]
            if None in found or len(used & three) < 2 or not three <= {*self.columns, *needed}:
                continue
            left, one, other = (values for values, _ in found)
            with np.errstate(all="ignore"):
                off = np.log(left) - np.log(factor) - np.log(one) - np.log(other)
            places = np.flatnonzero(np.isfinite(off))
            if not len(places):
                continue
            off, product = off[places], " ".join([f"{factor:g}"] * (factor != 1) + list(parts))
            middle = float(np.median(off))
            scatter = 1.4826 * float(np.median(np.abs(off - middle)))
            about = f"{whole} is {math.exp(middle):.3g} x {product}, robust sd of the log {scatter:.2g}"
            if scatter > STEADY or abs(middle) > math.log(OFF):
                sequences = parts == ("S", "B") and middle > math.log(OFF)
                fix = ("if B counts sequences, multiply it by the sequence length" if sequences else "correct them") + (
                    f", or leave one out, as with columns={{{whole!r}: ''}} (--column {whole}=)")
                worst = self.row[places[np.argsort(-np.abs(off), kind="stable")]]
                raise InputError(f"{', '.join(map(self._label, (whole, *parts)))} must agree on {whole} = {product}; "
                                 f"{about}, farthest off in {_rows(worst)}: {fix}.")
            if abs(middle) > 0.01 or scatter > 0.01:
                notes.append(f"{about}: another way of counting, {parts[0]} and {parts[1]} are used")
            odd |= {int(place): f"{whole} = {product} is off by over {OFF:g}x"
                    for place in places[np.abs(off - middle) > math.log(OFF)]}
        return odd, notes

    def _remarks(self, columns: dict, inputs: Sequence[str], output: str) -> list[str]:
        """Sentences on rows that can be used but may not mean what they seem to."""
        n, remarks = len(self), []
        if "run" not in self.names and "S" in self.columns and "N" in columns and len(np.unique(columns["N"])) < n / 2:
            remarks.append("no column of run ids was found, so every row counts as a run of its own, and errors are "
                           "too small where rows are steps of one run: name it with run= (--column run=...)")
        for name, (least, unit) in USUAL.items():
            if name in columns and np.max(columns[name]) < least:
                remarks.append(f"{name} is at most {np.max(columns[name]):g}, which is little for {unit}: is it in "
                               "other units?")

        def point_out(mask, what):
            if mask.any():
                remarks.append(f"{what}: {_rows(self.row[mask])}")

        same = [self.run]
        if "run" not in self.names:  # then two runs may share inputs and loss: all of the row counts
            cells = (*self.columns.values(), *self.groups.values())
            same = [np.unique(column, return_inverse=True)[1] for column in cells]
        first = np.unique(np.column_stack([*same, *columns.values()]), axis=0, return_index=True)[1]
        point_out(~np.isin(np.arange(n), first), "exact copies of earlier rows, each of which counts (see weights=)")
        tokens, progress = self._find("D"), self._find("S") or self._find("D")
        repeated = self.columns.get("epochs", np.ones(n)) > 1
        if tokens and "unique_tokens" in self.columns:
            repeated |= tokens[0] > self.columns["unique_tokens"]
        if "unique_tokens" not in inputs:
            point_out(repeated, "rows from repeated data, where D is more than the unique tokens (see weights=)")
        if not progress:
            return remarks
        order = np.lexsort((progress[0], self.run))  # by run, and by progress within it
        done, code, row = progress[0][order], self.run[order], np.arange(n)
        start, end = np.searchsorted(code, code, "left"), np.searchsorted(code, code, "right") - 1
        back = np.argsort(order)
        if output == "loss":
            loss = columns["loss"][order]
            above = (loss > loss[start]) & (done > done[start])
            point_out(above[back], "rows above the first loss of their run (diverged?)")
        falling = np.zeros(n, bool)
        if "lr" in self.columns:
            rate = self.columns["lr"][order]
            heads = np.unique(start)
            peak = np.fmax.reduceat(rate, heads)[code]
            last_peak = np.maximum.reduceat(np.where(rate >= peak, row, -1), heads)[code]
            falling = (rate[end] < 0.9 * peak) & (row > last_peak)
        elif "schedule" in self.groups:
            name = np.char.lower(self.groups["schedule"][order])
            falling = (np.char.find(name, "cosine") >= 0) | (np.char.find(name, "linear") >= 0)
        falling &= done < done[end]
        if not {"lr", "schedule", "S2"} & {*inputs}:
            point_out(falling[back], f"{falling.sum()} of {n} rows from the middle of a decaying schedule are not "
                                     "L(N, D) of a finished run of that length")
        return remarks

    # ---- fewer rows, other weights

    def where(self, mask) -> "Runs":
        """The rows where mask [n] holds; runs are numbered anew.

        Raises InputError for a mask of another length.

        >>> runs = Runs.from_columns({"N": [1e6, 1e7], "loss": [4.1, 3.2]})
        >>> runs.where(runs.columns["N"] > 5e6).row.tolist()
        [2]
        """
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != self.row.shape:
            raise InputError(f"a choice of rows must be {len(self)} booleans; it is {mask.dtype} of shape "
                             f"{mask.shape}: build it from the columns of these runs.")
        return self.take(np.flatnonzero(mask))

    def take(self, places: np.ndarray) -> "Runs":
        """The rows at these places; runs are numbered anew."""
        return replace(self, columns={name: values[places] for name, values in self.columns.items()},
                       groups={name: text[places] for name, text in self.groups.items()},
                       run=_first_seen(self.run[places]), weights=self.weights[places], row=self.row[places])

    def _leave_out(self, mask: np.ndarray, reason: str) -> "Runs":
        dropped = tuple((int(row), reason) for row in self.row[mask])
        alone = "run" not in self.names and not mask.any()
        notes = (f"{reason}: no row was left out, and every row is its own run (see run=)",) * alone
        return replace(self.where(~mask), dropped=self.dropped + dropped, notes=self.notes + notes)

    def _progress(self, *quantities: str) -> np.ndarray:
        """How far each row is in its run: the first of these quantities that can be had."""
        return (next(filter(None, map(self._find, quantities)), None) or self._refuse(quantities[0]))[0]

    def counted(self, flops_per_token) -> "Runs":
        """The missing one of C, N and D by C = flops_per_token(N) D, in place of 6 N D.

        flops_per_token: training FLOPs of one token, a function of N [n] that rises with it; `units.six_n` say
        Raises InputError unless there are two of the three. Given all three, C is left out, and a note says so.

        >>> runs = Runs.from_columns({"N": [1e6, 1e7], "C": [7e15, 7e17], "loss": [4.1, 3.2]})
        >>> runs.counted(lambda N: 7 * N).columns["D"].tolist()
        [1000000000.0, 10000000000.0]
        """
        found = {name: self._find(name, frozenset("CND") - {name}) for name in "CND"}
        N, D, C = (found[name] and found[name][0] for name in "NDC")
        if N is None and (C is None or D is None):
            self._refuse("N")
        columns = dict(self.columns)
        if N is None:  # the root of a rising function, by bisection in ln N
            low, high = np.zeros(len(self)), np.full(len(self), 80.0)
            for _ in range(60):
                middle = 0.5 * (low + high)
                above = np.asarray(flops_per_token(np.exp(middle)), np.float64) * D > C
                low, high = np.where(above, low, middle), np.where(above, middle, high)
            columns["N"] = np.exp(low)
            columns.pop("C")
            how = "N is worked out from C and D"
        elif D is None:
            if C is None:
                self._refuse("D")
            columns["D"] = columns.pop("C") / np.asarray(flops_per_token(N), np.float64)
            how = "D is worked out from C and N"
        else:
            how = "C is not used, N and D are" if C is not None else "C is worked out from N and D"
            columns.pop("C", None)
            if C is None:
                columns["C"] = np.asarray(flops_per_token(N), np.float64) * D
        return replace(self, columns=columns, notes=(*self.notes, f"{how}, by the cost model given"))

    def after_warm_up(self, *, steps=None, tokens=None, fraction=None) -> "Runs":
        """Leave out the first `steps`, `tokens`, or `fraction` (of the last step or token there) of each run.

        Raises InputError unless exactly one of them is given, for a negative one, and for a fraction of 1 or more.

        >>> runs = Runs.from_columns({"S": [1, 2, 3, 4], "loss": [9.0, 6.0, 5.0, 4.5]}, run=[0, 0, 0, 0])
        >>> runs.after_warm_up(fraction=0.5).dropped
        ((1, 'warm-up'), (2, 'warm-up'))
        """
        given = {"steps": steps, "tokens": tokens, "fraction": fraction}
        given = {name: length for name, length in given.items() if length is not None}
        if len(given) != 1:
            raise InputError(f"a warm-up must be one of steps, tokens, fraction; {len(given)} were given: pass one.")
        (name, length), = given.items()
        if not 0 <= length < (1 if name == "fraction" else math.inf):
            raise InputError(f"a warm-up must be 0 or more{', below 1' * (name == 'fraction')}; {name} is {length}: "
                             "correct it.")
        done = self._progress(*{"steps": "S", "tokens": "D", "fraction": "SD"}[name])
        if name == "fraction":
            last = np.zeros(len(self))
            np.fmax.at(last, self.run, done)
            length = length * last[self.run]
        return self._leave_out(done <= length, "warm-up")

    def thin(self, points: int) -> "Runs":
        """At most `points` rows of each run, evenly spaced in log S (or D), the last among them.

        Raises InputError for points below 1, and where there is neither S nor D.

        >>> runs = Runs.from_columns({"S": range(1, 101), "loss": [3.0] * 100}, run=[0] * 100)
        >>> runs.thin(3).columns["S"].tolist()
        [1.0, 10.0, 100.0]
        """
        if points < 1:
            raise InputError(f"at least one row a run must stay; points is {points}: pass 1 or more.")
        done = self._progress("S", "D")
        usable = np.isfinite(done) & (done > 0)  # the others stay, for select to name
        out = np.zeros(len(self), bool)
        for places in _split(self.run):
            places = places[usable[places]]
            if len(places) > points:
                depth = np.log(done[places])
                marks = np.linspace(depth.max(), depth.min(), points)
                out[places] = True
                out[places[np.abs(depth - marks[:, None]).argmin(axis=1)]] = False
        return self._leave_out(out, "thinned")

    def per_run(self) -> "Runs":
        """Weights under which every run counts the same, of mean 1; to be called after rows are chosen.

        >>> Runs.from_columns({"loss": [3.0, 2.9, 2.8]}, run=["a", "a", "b"]).per_run().weights.tolist()
        [0.75, 0.75, 1.5]
        """
        total = np.bincount(self.run, self.weights)
        share = self.weights / np.where(total > 0, total, 1)[self.run]
        return replace(self, weights=share * len(self) / max(np.count_nonzero(total), 1))

    def by(self, names: str | Sequence[str]) -> list[tuple[dict, "Runs"]]:
        """(values of the named columns, their runs) for each combination, in order of first appearance.

        Raises InputError for a column that is not there.

        >>> runs = Runs.from_columns({"family": ["a", "b", "a"], "loss": [3.0, 2.9, 2.8]})
        >>> [(group, len(part)) for group, part in runs.by("family")]
        [({'family': 'a'}, 2), ({'family': 'b'}, 1)]
        """
        return [(key, self.take(places)) for key, places in zip(*self.grouped(names), strict=True)]

    def grouped(self, names: str | Sequence[str]) -> tuple[list[dict], list[np.ndarray]]:
        """The values of the named columns and the places of the rows of each combination, as `by` orders them."""
        names = [names] if isinstance(names, str) else list(names)
        if not names:
            raise InputError("by= must name at least one column that makes the groups; it is empty: by=['family'], "
                             "say.")
        values, code = {}, np.zeros(len(self), int)
        for name in names:
            key = self._key(name)
            values[name] = self.groups.get(key, self.columns.get(key))
            if values[name] is None:
                raise InputError(f"a column to group by must be in the table; {name!r} is not, it has "
                                 f"{', '.join(self._there())}{nearest(name, self._there())}: name one of them.")
            own = np.unique(values[name], return_inverse=True)[1]
            code = _first_seen(code * len(self) + own)
        places = _split(code)
        heads = np.array([rows[0] for rows in places], int)
        cells = [column[heads].tolist() for column in values.values()]
        return [dict(zip(values, row, strict=True)) for row in zip(*cells, strict=True)], places

    def plain(self, inputs: Sequence[str], output: str) -> np.ndarray:
        """Which rows [n] need no second look: `select` would take them, as they are, alone or together."""
        plain, there = np.ones(len(self), bool), {*self.columns}
        needed = [self._key(name) for name in (*inputs, output)]
        for name in needed:
            if name in self.ambiguous or name not in there:
                return np.zeros(len(self), bool)
            plain &= np.isfinite(self.columns[name]) & (self.columns[name] > 0)
        if output == "loss":
            plain &= self.columns["loss"] <= MOST_NATS
        threes = [{whole, *parts} for whole, _, parts in IDENTITIES]
        if any(len({*needed} & three) > 1 and len(there & three) > 2 for three in threes):
            return np.zeros(len(self), bool)
        return plain

    # ---- what they weigh and what they are

    @property
    def effective_runs(self) -> float:
        """(sum w_g)^2 / sum w_g^2, w_g the weight of all rows of run g.

        >>> Runs.from_columns({"loss": [3.0, 2.9, 2.8]}, run=["a", "a", "b"]).effective_runs
        1.8
        """
        total = np.bincount(self.run, self.weights)
        return float(total.sum() ** 2 / (total**2).sum())

    @property
    def digest(self) -> str:
        """SHA-256 of columns, runs and weights, rows in order: the same digest, the same fit."""
        told = hashlib.sha256()
        for name, values in [*sorted(self.columns.items()), ("run", self.run), ("weights", self.weights)]:
            told.update(f"{name}:{len(values)}:".encode() + values.astype("<f8").tobytes())
        return told.hexdigest()


def _numbers_or_text(label: str, values) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(float64 [n], None), (None, text [n]), or both where only some of the text reads as numbers (the others NaN)."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.empty((0, 0))
    if array.ndim != 1:
        raise InputError(f"{label} must be a 1-D list or array; it has {array.ndim} axes: pass one value a row.")
    if array.dtype.kind not in "OSUTMmc":
        return array.astype(np.float64), None
    if array.dtype.kind == "O" and not any(isinstance(value, str | bytes) for value in array):
        try:
            return np.array([math.nan if value is None else float(value) for value in array]), None
        except (TypeError, ValueError, OverflowError):  # dates, lists, ...: text
            pass
    cells, place = np.unique(["" if value is None else str(value) for value in array], return_inverse=True)
    numbers = np.array([_parsed(cell) for cell in cells])
    some = np.isnan(numbers).any() and not np.isnan(numbers).all()
    return (numbers[place] if some else None), cells[place]


def _parsed(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _rows(rows: np.ndarray) -> str:
    """'row 7', 'rows 7, 9', 'rows 7, 9, 12 and 4 more'."""
    more = f" and {len(rows) - 3} more" * (len(rows) > 3)
    return f"row{'s' * (len(rows) > 1)} {', '.join(str(row) for row in rows[:3])}{more}"


def _refuse_rows(wanted: str, rows: np.ndarray, why: str, way_out: str = " or pass drop_bad=True (--drop-bad)"):
    """Raise for rows that cannot be used."""
    verb, them = ("is", "it") if len(rows) == 1 else ("are", "them")
    raise InputError(f"{wanted}; {_rows(rows)} {verb} not ({why}): correct {them}{way_out}.")


def _first_seen(code: np.ndarray) -> np.ndarray:
    """Codes 0, 1, ... in order of first appearance."""
    _, first, place = np.unique(code, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place]


def _split(code: np.ndarray) -> list[np.ndarray]:
    """Places of the rows of each code, codes in order."""
    order = np.argsort(code, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(code[order])) + 1) if len(code) else []


def _run_codes(numbers: np.ndarray | None, text: np.ndarray | None) -> np.ndarray:
    """Codes of run ids; a row without id is its own run."""
    ids = numbers if text is None else text
    missing = np.isnan(ids) if text is None else ids == ""
    code = np.unique(ids, return_inverse=True)[1]
    return _first_seen(np.where(missing, len(code) + np.arange(len(code)), code))


def _usable_weights(numbers: np.ndarray | None, text: np.ndarray | None) -> np.ndarray:
    wrong = ~(np.isfinite(numbers) & (numbers >= 0)) if text is None else np.ones(len(text), bool)
    if wrong.any():
        first = (numbers if text is None else text)[wrong][0]
        _refuse_rows("weights must be finite and 0 or more", np.flatnonzero(wrong) + 1, f"first value {first!s}", "")
    if not numbers.any():
        raise InputError("at least one weight must be above 0; all are 0: give the rows that count a weight.")
    return numbers
