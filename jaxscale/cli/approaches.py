"""`jaxscale approaches`: the compute-optimal run by all three approaches of Hoffmann et al. 2022."""

from jaxscale.cli import values
from jaxscale.cli.answer import Answer
from jaxscale.cli.options import (
    BytesPerToken,
    Column,
    DropBad,
    Example,
    Json,
    NoCache,
    SkipFraction,
    SkipSteps,
    SkipTokens,
    Table,
    Thin,
    Unit,
    taking,
)
from jaxscale.cli.reading import budget_of, left_out, runs_of, shortened, table_path


def approaches(
    table: Table = None,
    example: Example = None,
    compute: taking("FLOPS", "The budget to compare at; the table's largest without it.") = None,
    budgets: taking("FLOPS|COUNT", "Where approach 2 reads curves: several between commas, or how many.") = None,
    column: Column = None,
    unit: Unit = "nats",
    bytes_per_token: BytesPerToken = None,
    drop_bad: DropBad = False,
    skip_steps: SkipSteps = None,
    skip_tokens: SkipTokens = None,
    skip_fraction: SkipFraction = None,
    thin: Thin = None,
    seed: taking("COUNT", "Of the draws behind the errors.") = "0",
    json: Json = False,
    no_cache: NoCache = False,
):
    """The compute-optimal N and D by the envelope, by IsoFLOP curves and by the parametric law, side by side."""
    path = table_path("approaches", table, example)
    question = {"compute": None if compute is None else budget_of(compute), "budgets": _budgets(budgets),
                "seed": values.whole(seed, "--seed")}
    runs = runs_of(path, None, column, unit, bytes_per_token)
    runs = shortened(runs, skip_steps, skip_tokens, skip_fraction, thin)
    runs = runs.select(("N", "D", *(["B"] if "B" in runs.columns else [])), drop_bad=drop_bad)
    from jaxscale.recipes import approaches as compare

    found = compare(runs, **question)
    return Answer(str(found), _document(found), (*found.notes, *left_out(runs.dropped)))


def _budgets(text):
    if text is None:
        return None
    if "," in text:
        return values.numbers(text, "--budgets")
    return values.whole(text, "--budgets", 2)


def _document(found):
    from jaxscale.files import plain
    from jaxscale.recipes.approaches import LEVEL

    answers = [{"name": answer.name, "a": answer.a, "b": answer.b, "error": answer.error, "N": answer.N, "D": answer.D,
                "interval": answer.interval, "loss": answer.loss, "reason": answer.reason} for answer in found.answers]
    bias = found.bias and {"exponent": found.bias.exponent, "size": found.bias.size,
                           "interval": dict(zip(("exponent", "size"), found.bias_interval, strict=True))}
    return plain({"compute": found.compute, "level": LEVEL, "approaches": answers, "parabola_bias": bias})
