"""What options are made of. All values are text: `values` reads them, so that every error is one of ours."""

from typing import Annotated

from typer import Argument, Option

Text = str | None
Texts = list[str] | None


def taking(metavar, help, *names):
    """An option that takes one value; its names are needed where they are not the argument's own with dashes."""
    return Annotated[Text, Option(*names, metavar=metavar, help=help)]


def repeated(metavar, help):
    """An option that may be given several times."""
    return Annotated[Texts, Option(metavar=metavar, help=help)]


def flag(name, help):
    return Annotated[bool, Option(name, help=help)]


def file(metavar, help):
    return Annotated[Text, Argument(metavar=metavar, help=help, show_default=False)]


Json = flag("--json", "Print one JSON document.")
NoCache = flag("--no-cache", "Keep no compiled code in the user's cache folder.")
FitFile = file("FIT.json", "What 'jaxscale fit -o' wrote.")
Published = taking("NAME", "A published law in place of a fit: see 'jaxscale laws'.", "--law")

# Of a table of runs, and of the law that is fitted to it.
Example = taking("NAME", "A table inside the package: ladder, the project's own runs.")
Table = file("TABLE", "csv, jsonl, json (.gz or not) or parquet.")
Fix = repeated("NAME=X", "Hold a constant; repeatable.")
Free = repeated("NAME", "Fit a constant that has a default.")
Tie = repeated("NAME=NAME", "Constants that share one value.")
Objective = taking("NAME", "huber, lad or squares of log residuals, or squares-loss.")
Column = repeated("N=COL", "The column of a quantity; repeatable.")
X = taking("COL", "The column that a power-law reads.", "--x")
Unit = taking("NAME", "Of the loss: nats, bits, bits-per-byte, perplexity.")
BytesPerToken = taking("X", "Needed for bits-per-byte.")
DropBad = flag("--drop-bad", "Leave out, and list, rows that cannot be used.")
SkipSteps = taking("X", "Leave out the first steps of each run.")
SkipTokens = taking("X", "Leave out the first tokens of each run.")
SkipFraction = taking("X", "Leave out the first part of each run, 0.1 say.")
Thin = taking("POINTS", "Keep that many rows of each run, log-spaced.")
