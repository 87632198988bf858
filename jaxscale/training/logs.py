"""Logs of one run, read whole or as they grow: csv and jsonl, exports of Weights & Biases and of TensorBoard.

    log = Log("run.jsonl")
    for step, tokens, loss, lr in log.new(): ...      # arrays of what was appended since the last call

Columns are found as in tables of runs (`tables.ALIASES`). Of several losses the one with most numbers is read, which in
a training log is the batch's. A row without a number is kept as NaN: a forecast passes over it.
"""

import csv
import json
import math
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxscale.errors import InputError
from jaxscale.tables import choose_columns

READ = ("S", "D", "loss", "lr")


class Rows(NamedTuple):
    """Rows of a log [k]; None for what it does not have."""

    step: np.ndarray
    tokens: np.ndarray | None
    loss: np.ndarray
    lr: np.ndarray | None


class Log:
    """A log at a path, csv or jsonl, that may still be written. `columns`: quantity -> its column, before any guess.

    TensorBoard's csv has Wall time, Step and Value; a chart of W&B has Step and "run - train/loss", with its __MIN and
    __MAX; a history of W&B has _step, which gives way to a step of the trainer's own.

    Raises InputError for another kind of file; a last line that is not whole yet is left for the next call.
    """

    def __init__(self, path, columns: Mapping[str, str] | None = None):
        self.path, self.columns = os.fspath(path), dict(columns or {})
        if not self.path.lower().endswith((".csv", ".jsonl")):
            raise InputError(f"a log must be a file that ends in .csv or .jsonl; it is {self.path!r}: export "
                             "it as one.")
        self.notes, self._place, self._left, self._header, self._line = (), 0, "", None, 0
        self._records = []  # until a column of steps and one of losses are found
        self._found = None

    def new(self, whole=False):
        """`Rows` appended since the last call. `whole`: the file is finished, so a last line without end counts."""
        self._records += self._read(whole)
        names = {name for record in self._records for name in record}
        if self._found is None or names - self._seen:
            self._choose()
        if self._found is None:
            return Rows(np.zeros(0), None, np.zeros(0), None)
        records, self._records = self._records, []
        rows = {name: np.array([_number(record.get(column)) for record in records])
                for name, column in self._found.items()}
        return Rows(*(rows.get(name) for name in READ))

    def _choose(self):
        names = dict.fromkeys(name for record in self._records for name in record)
        self._seen = set(names) | (self._seen if self._found else set())
        table = {name: [_number(record.get(name)) for record in self._records] for name in names}
        if self._found is not None:
            table |= {column: [0.0] for column in self._found.values() if column not in table}
        self._found, self.notes = _columns(table, self.path, self.columns)

    def _read(self, whole):
        """The records of whole new lines."""
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                file.seek(self._place)
                text = self._left + file.read()
                self._place = file.tell()
        except OSError as error:
            raise InputError(f"{self.path} must be a file that can be read; it is not ({error.strerror}): correct the "
                             "path.") from None
        except UnicodeDecodeError:
            raise InputError(f"{self.path} must be text in UTF-8; it is not: is it of another kind?") from None
        *lines, self._left = text.split("\n")
        records = [record for line in lines if line.strip() for record in self._record(line, True)]
        if whole and self._left.strip():
            records += self._record(self._left, False)
            self._left = ""
        return records

    def _record(self, line, ended):
        """One record in a list, or none: of a header, or of a line that breaks off."""
        self._line += ended
        if self.path.lower().endswith(".jsonl"):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if isinstance(record, Mapping):
                return [record]
            if not ended:
                return []
            raise InputError(f"every line of {self.path} must be one JSON record; line {self._line} is not: correct "
                             "it.")
        cells = next(csv.reader([line.rstrip("\r")]))
        if self._header is None:
            self._header = [cell.strip() for cell in cells] if ended else None
            return []
        if len(cells) != len(self._header):
            if not ended:
                return []
            raise InputError(f"every line of {self.path} must have the {len(self._header)} fields of its header; line "
                             f"{self._line} has {len(cells)}: correct it.")
        return [dict(zip(self._header, cells, strict=True))]


def _columns(table, name, columns):
    """Quantity -> column of a log, or None where steps or losses are not there yet; and notes."""
    shown = {}
    for column, values in table.items():
        plain = re.sub(r"__(MIN|MAX)$", "", column)
        if plain == column or plain not in table:
            shown[column] = values
    renamed = {}
    for column in shown:
        short = column.rsplit(" - ", 1)[-1]
        if short in renamed and column not in columns.values() and renamed[short] not in columns.values():
            raise InputError(f"a log must be of one run, and {name} has {short!r} of several, {renamed[short]!r} and "
                             f"{column!r}: choose one with columns={{'loss': {column!r}}} (--column 'loss={column}').")
        if column in columns.values() or renamed.get(short) not in columns.values():
            renamed[short] = column
    if set(renamed) >= {"Wall time", "Step", "Value"}:
        renamed = {"step": renamed["Step"], "loss": renamed["Value"]}
    columns = {quantity: next((new for new, old in renamed.items() if old == column), column)
               for quantity, column in columns.items()}
    chosen, ambiguous, _ = choose_columns({new: shown[old] for new, old in renamed.items()}, name, columns, "nats")
    notes = []
    for quantity, candidates in ambiguous.items():
        if quantity == "S" and len(candidates) > 1:
            candidates = [column for column in candidates if column != "_step"]
        most = max(candidates, key=lambda column: np.isfinite(shown[renamed[column]]).sum())
        chosen[quantity] = most
        if quantity in READ:
            others = " or ".join(repr(column) for column in candidates if column != most)
            notes += [f"{quantity} = column {most!r}, not {others} (--column {quantity}=...)"] if others else []
    if not {"S", "loss"} <= set(chosen):
        return None, ()
    return {quantity: renamed[column] for quantity, column in chosen.items() if quantity in READ}, tuple(notes)


def _number(value):
    try:
        return float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        return math.nan
