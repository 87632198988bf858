"""`jaxscale compare`: is recipe B better than recipe A at a budget?"""

from jaxscale.cli import values
from jaxscale.cli.answer import Answer, misleading
from jaxscale.cli.options import BytesPerToken, DropBad, Json, NoCache, Objective, Unit, file, repeated, taking
from jaxscale.cli.reading import budget_of, objective_of, runs_of
from jaxscale.errors import InputError


def compare(
    a: file("A", "The table of recipe A's runs: csv, jsonl, json (.gz or not) or parquet.") = None,
    b: file("B", "The table of recipe B's.") = None,
    compute: taking("FLOPS", "The budget to decide on.") = None,
    level: taking("SHARE", "Of the intervals.") = "0.8",
    fix: repeated("NAME=X", "Hold a constant: n=1 where only the data differ; repeatable.") = None,
    tie: repeated("NAME=NAME", "Constants that share one value: n=d for one multiplier.") = None,
    objective: Objective = "huber",
    column: repeated("N=COL", "The column of a quantity, in both tables; repeatable.") = None,
    unit: Unit = "nats",
    bytes_per_token: BytesPerToken = None,
    drop_bad: DropBad = False,
    seed: taking("COUNT", "Of the draws.") = "0",
    json: Json = False,
    no_cache: NoCache = False,
):
    """Whether recipe B is better than recipe A at a budget, from tables of small runs of both.

    One law for both, the floor and the exponents shared: what B's compute counts for, with an interval.
    """
    if a is None or b is None or compute is None:
        raise InputError("compare wants two tables and a budget: jaxscale compare a.csv b.csv --compute 1e22")
    question = {
        "compute": budget_of(compute),
        "level": values.number(level, "--level"),
        "fix": values.numbers_by_name(values.names(fix), "--fix", "n=1", 1),
        "tie": [tuple(name.strip() for name in group.split("=")) for group in values.names(tie)],
        "objective": objective_of(objective, None, "1"),
        "drop_bad": drop_bad,
        "seed": values.whole(seed, "--seed"),
    }
    runs = [runs_of(path, None, column, unit, bytes_per_token) for path in (a, b)]
    from jaxscale.recipes import compare as of_both

    found = of_both(*runs, **question)
    document = _document(found)
    if not found.fit.converged:
        return misleading("the joint fit has not converged, so its numbers would mislead: add runs, or --fix n=1.",
                          str(found), document)
    return Answer(str(found), document)


def _document(found):
    from jaxscale.files import as_document, plain

    return plain({"compute": found.compute, "level": found.level, "multiplier": found.multiplier,
                  "multiplier_interval": found.multiplier_interval, "probability": found.probability,
                  "losses": found.losses, "alone": found.alone, "agree": found.agree,
                  "difference": found.difference, "difference_interval": found.difference_interval,
                  "notes": found.notes, "fit": as_document(found.fit)})
