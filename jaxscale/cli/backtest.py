"""`jaxscale backtest`: how far forecasts of a table's larger runs from its smaller ones were off."""

from jaxscale.cli import values
from jaxscale.cli.answer import Answer, aligned, progress_bar
from jaxscale.cli.options import (
    BytesPerToken,
    Column,
    DropBad,
    Example,
    Json,
    NoCache,
    Objective,
    SkipFraction,
    SkipSteps,
    SkipTokens,
    Table,
    Thin,
    Unit,
    repeated,
    taking,
)
from jaxscale.cli.reading import left_out, objective_of, runs_of, shortened, table_path


def backtest(
    table: Table = None,
    example: Example = None,
    law: repeated("NAME", "Of N and D, or N, S and B; repeatable. Without it those that 'jaxscale fit' pools.") = None,
    along: taking("C|N|D", "What is cut.") = "C",
    objective: Objective = "huber",
    column: Column = None,
    unit: Unit = "nats",
    bytes_per_token: BytesPerToken = None,
    drop_bad: DropBad = False,
    skip_steps: SkipSteps = None,
    skip_tokens: SkipTokens = None,
    skip_fraction: SkipFraction = None,
    thin: Thin = None,
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
