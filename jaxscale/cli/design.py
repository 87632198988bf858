"""`jaxscale design`: what a table can tell of a law, before its fit is trusted."""

from jaxscale.cli import values
from jaxscale.cli.answer import Answer
from jaxscale.cli.options import (
    BytesPerToken,
    Column,
    DropBad,
    Example,
    Fix,
    Free,
    Json,
    NoCache,
    Objective,
    SkipFraction,
    SkipSteps,
    SkipTokens,
    Table,
    Thin,
    Tie,
    Unit,
    X,
    repeated,
    taking,
)
from jaxscale.cli.reading import left_out, objective_of, runs_of, shortened, table_path


def design(
    table: Table = None,
    example: Example = None,
    law: taking("NAME", "The law to be fitted: see 'jaxscale laws'.") = "chinchilla",
    compute: taking("FLOPS", "The budget to look ahead to; 10 times the largest run's by default.") = None,
    at: repeated("N=X", "Of one more point where the loss is wanted: --at N=70B --at D=1.4T.") = None,
    noise: taking("X", "The standard deviation of a row's ln loss; read off the residuals by default.") = None,
    fix: Fix = None,
    free: Free = None,
    tie: Tie = None,
    objective: Objective = "huber",
    column: Column = None,
    x: X = None,
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
    """Which constants of a law, and which answers, a table of runs can tell, and what to fix, tie or run where not."""
    path = table_path("design", table, example)
    question = {
        "compute": None if compute is None else values.number(compute, "--compute"),
        "at": values.numbers_by_name(values.names(at), "--at", "N=70B", 1) or None,
        "noise": None if noise is None else values.number(noise, "--noise"),
        "fix": values.numbers_by_name(values.names(fix), "--fix", "alpha_B=0.205", 1),
        "free": values.names(free),
        "tie": [tuple(name.strip() for name in group.split("=")) for group in values.names(tie)],
        "objective": objective_of(objective, None, "1"),
        "x": x,
        "drop_bad": drop_bad,
    }
    runs = shortened(runs_of(path, None, column, unit, bytes_per_token), skip_steps, skip_tokens, skip_fraction, thin)
    from jaxscale.designs import design as ask

    found = ask(law, runs, **question)
    return Answer(str(found), _document(found, law), (*found.notes, *left_out(found.dropped)))


def _document(found, law):
    from jaxscale.files import plain

    def known(of):
        return {name: {"value": one.value, "error": one.error, "identified": one.identified}
                for name, one in of.items()}

    advice = [one._asdict() for one in found.advice]
    return plain({"law": law, "points": found.rows, "runs": found.runs, "noise": found.noise,
                  "identified": found.identified, "spans": {name: one._asdict() for name, one in found.spans.items()},
                  "correlations": [{"of": pair, "r": r} for pair, r in found.correlations.items()],
                  "constants": known(found.constants), "quantities": known(found.quantities),
                  "spectrum": found.spectrum, "advice": advice})
