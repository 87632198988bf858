"""What a verb answers, and the text it is shown as."""

import dataclasses
import sys
from contextlib import contextmanager

UNITS = {"compute": "FLOPs", "C": "FLOPs", "N": "parameters", "D": "tokens", "S": "steps", "B": "tokens per step",
         "M": "tokens per parameter", "loss": "nats per token", "B_crit": "tokens per step",
         "serving": "FLOPs of these, for inference", "epochs": "times the unique tokens", "days": "days",
         "devices": "devices busy", "money": "for their hours"}


@dataclasses.dataclass(frozen=True)
class Answer:
    """`text` or (--json) `document` for stdout, `notes` for stderr, and why the exit code is not 0.

    `output` is a file for the document, if one was asked for; never the table, `source`.
    """

    text: str = ""
    document: dict = dataclasses.field(default_factory=dict)
    notes: tuple = ()
    reason: str | None = None
    code: int = 0
    output: str | None = None
    source: str | None = None


def misleading(reason, text="", document=None, notes=()):
    """An answer with exit code 1: the numbers are shown, and why not to trust them."""
    return Answer(text, {**(document or {}), "reason": reason}, tuple(notes), reason, 1)


def aligned(rows):
    """Rows of text as lines with columns of one width, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
                     for row in rows)


def short(value):
    """A number to six digits; '-' where there is none."""
    return value if isinstance(value, str) else "-" if value is None or value != value else f"{value:.6g}"


@contextmanager
def progress_bar(what, total):
    """A function to call with how many more are done, which draws a bar on stderr; None if that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    class Rate(ProgressColumn):
        """How many a second."""

        def render(self, task):
            return f"{task.speed:.3g}/s" if task.speed else ""

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("fitting", total=None)
        yield lambda done: bar.update(task, description=what, total=total, advance=done)
