"""`jaxscale recipe`: the whole procedure of Su et al. 2024 on a table of runs, and the decisions it promises."""

from jaxscale.cli import values
from jaxscale.cli.answer import Answer, misleading, progress_bar
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
    repeated,
    taking,
)
from jaxscale.cli.reading import check_output, left_out, objective_of, runs_of, shortened, table_path

ASKED = 10  # times the largest run's compute, where no budget is given


def recipe(
    table: Table = None,
    example: Example = None,
    compute: taking("FLOPS", "The budget to plan for; 10 times the largest run's by default.") = None,
    loss: taking("NATS", "The loss to reach; by default that of the best run for the budget.") = None,
    N: taking("X", "The model to ask about; by default that of the best run for the budget.", "--N") = None,
    B: taking("TOKENS", "Its batch size; by default the critical one at the loss.", "--B") = None,
    free: repeated("NAME", "E: fit a floor too.") = None,
    fix: repeated("NAME=X", "Hold a constant in the joint fit; repeatable.") = None,
    large: taking("TOKENS", "A batch that counts as large in step 2; half the largest by default.") = None,
    levels: taking("COUNT", "Levels of the loss in the contour scan.") = "12",
    tolerance: taking("SHARE", "Of the loss, that twice the steps may take off a converged run.") = "0.01",
    train: taking("COL", "The column of training losses.") = None,
    objective: taking("NAME", "Of the joint fit: huber, lad or squares of log residuals, or squares-loss.") = "squares",
    weights: taking("COL|run", "A column of weights; 'run' weighs every run the same.") = "run",
    column: Column = None,
    unit: Unit = "nats",
    bytes_per_token: BytesPerToken = None,
    drop_bad: DropBad = False,
    skip_steps: SkipSteps = None,
    skip_tokens: SkipTokens = None,
    skip_fraction: SkipFraction = None,
    thin: Thin = None,
    seed: taking("COUNT", "Of the resampling of runs.") = "0",
    output: taking("FIT.json", "Write the joint fit to a file.", "-o", "--output") = None,
    json: Json = False,
    no_cache: NoCache = False,
):
    """Estimate L(N, S, B) step by step as Su et al. 2024 do, then jointly, and answer what is asked before a run.

    The steps: L(N) from converged runs, L(N, S_min) from a large batch, B_crit(L) from a contour scan and along whole
    trajectories, and one fit of all rows. What the table lacks is said, and the joint fit uses what there is.
    """
    import numpy as np

    from jaxscale.files import as_document
    from jaxscale.laws import KaplanNSB
    from jaxscale.recipes import decisions, procedure

    path = table_path("recipe", table, example)
    check_output(output, path)
    asked = {name: values.number(text, f"--{name}") for name, text in (
        ("compute", compute), ("loss", loss), ("N", N), ("B", B)) if text is not None}
    how = {"free": values.names(free), "fix": values.numbers_by_name(values.names(fix), "--fix", "alpha_B=0.205", 1),
           "levels": values.whole(levels, "--levels", 2), "train": train,
           "tolerance": values.number(tolerance, "--tolerance"), "seed": values.whole(seed, "--seed"),
           "objective": objective_of(objective, None, "1"), "weights": "run" if weights == "run" else None,
           "batch": None if large is None else values.number(large, "--large"), "drop_bad": drop_bad}
    runs, said = _read(path, weights, column, unit, bytes_per_token)
    runs = shortened(runs, skip_steps, skip_tokens, skip_fraction, thin)
    with progress_bar("fits", 1) as progress:
        found = procedure(runs, **how, progress=progress)
    joint, text = found.joint, str(found)
    document = as_document(joint) | {"procedure": found.as_dict()}  # 'predict' and 'plan' read it as a fit
    notes = (*said, *joint.facts["notes"], *left_out(joint.facts["dropped"]))
    if not joint.converged:
        return misleading("the joint fit has not converged, so its numbers would mislead: add runs, or leave out "
                          "their warm-up (--skip-steps).", text, document, notes)
    columns = joint.task.runs.columns
    if isinstance(joint.law, KaplanNSB) and len(np.unique(columns["N"])) > 1:
        largest = float((6 * columns["N"] * columns["B"] * columns["S"]).max())
        answers = decisions(joint, **({"compute": ASKED * largest} | asked))
        text, document["decisions"] = f"{text}\n\n{answers}", answers.as_dict()
    else:
        text = f"{text}\n\n{found.scan}" if found.scan else text
        notes = (*notes, "no decisions: they take a law of N, S and B, from runs of several sizes and batch sizes")
    return Answer(text, document, notes, output=output, source=path)


def _read(path, weights, column, unit, bytes_per_token):
    """The runs; of two columns of losses that of the test, as the other is what a step is checked by. And notes."""
    from jaxscale.recipes.checks import TRAINING

    runs = runs_of(path, weights, column, unit, bytes_per_token)
    test = [name for name in runs.ambiguous.get("loss", ()) if name.lower() not in TRAINING]
    if len(test) != 1:
        return runs, ()
    return runs_of(path, weights, [*(column or []), f"loss={test[0]}"], unit, bytes_per_token), (
        f"loss is read from {test[0]!r}, and the other column as the training loss: --column loss=... overrides",)
