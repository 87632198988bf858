"""`jaxscale backtest`: how far forecasts of a table's larger runs from its smaller ones were off."""

from jaxscale.cli import values
from jaxscale.cli.answer import Answer, aligned, progress_bar
from jaxscale.cli.options import Json, NoCache, file, flag, repeated, taking
from jaxscale.cli.reading import left_out, objective_of, runs_of, shortened, table_path


def backtest(
    table: file("TABLE", "csv, jsonl, json (.gz or not) or parquet.") = None,
    example: taking("NAME", "A table inside the package: ladder, the project's own runs.") = None,
    law: repeated("NAME", "Of N and D, or N, S and B; repeatable. Without it those that 'jaxscale fit' pools.") = None,
    along: taking("C|N|D", "What is cut.") = "C",
    objective: taking("NAME", "huber, lad or squares of log residuals, or squares-loss.") = "huber",
    column: repeated("N=COL", "The column of a quantity; repeatable.") = None,
    unit: taking("NAME", "Of the loss: nats, bits, bits-per-byte, perplexity.") = "nats",
    bytes_per_token: taking("X", "Needed for bits-per-byte.") = None,
    drop_bad: flag("--drop-bad", "Leave out, and list, rows that cannot be used.") = False,
    skip_steps: taking("X", "Leave out the first steps of each run.") = None,
    skip_tokens: taking("X", "Leave out the first tokens of each run.") = None,
    skip_fraction: taking("X", "Leave out the first part of each run, 0.1 say.") = None,
    thin: taking("POINTS", "Keep that many rows of each run, log-spaced.") = None,
    json: Json = False,
    no_cache: NoCache = False,
):
    """Forecast the larger runs of a table from its smaller ones, and show by distance how far that was off."""
    path = table_path("backtest", table, example)
    question = {"along": values.choice(along, "--along", ("C", "N", "D")), "drop_bad": drop_bad,
                "objective": objective_of(objective, None, "1")}
    runs = shortened(runs_of(path, None, column, unit, bytes_per_token), skip_steps, skip_tokens, skip_fraction, thin)
    from jaxscale.files import plain
    from jaxscale.pooling import pool
    from jaxscale.validation import far

    with progress_bar("fits", None) as progress:
        made = pool(runs, values.names(law) or None, early=not law, progress=progress, **question)
    tested = made.backtest
    found = tested.by_distance()
    text = str(tested)
    if found:
        text += "\n\nmissed by each law\n" + aligned(
            [["law", *(far(row) for row in found)],
             *([name, *(percent(row["errors"][name]) for row in found)] for name in tested.laws)])
    text += f"\n\n{made.said()}"
    document = plain({"along": tested.along, "laws": list(tested.laws), "width": made.width, "distances": found})
    return Answer(text, document, (*made.facts["notes"], *left_out(made.facts["dropped"])))


def percent(share):
    return "-" if share != share else f"{share:.2%}"
