"""`jaxscale fit`: a law's constants from a table of runs."""

import os
from dataclasses import replace
from pathlib import Path

from jaxscale.cli import values
from jaxscale.cli.answer import Answer, aligned, misleading, progress_bar, short
from jaxscale.cli.options import (
    BytesPerToken,
    Column,
    DropBad,
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
    flag,
    repeated,
    taking,
)
from jaxscale.cli.plan import planned
from jaxscale.cli.reading import (
    WEIGHTS,
    budget_of,
    check_output,
    left_out,
    objective_of,
    runs_of,
    shortened,
    table_path,
)
from jaxscale.cli.subject import subject_of
from jaxscale.errors import FitError, InputError

ERRORS = ("auto", "sandwich", "jackknife", "bootstrap", "none")


def fit(
    table: Table = None,
    example: taking("NAME", "Fit a table inside the package: ladder, the project's own runs.") = None,
    law: taking("NAME", "See 'jaxscale laws'; without it several are pooled, unless constants are asked about.") = None,
    pool: flag("--pool", "Back-test and pool several laws beside that of --law.") = False,
    by: repeated("COL", "Fit each group of a column's values; repeatable.") = None,
    fix: Fix = None,
    free: Free = None,
    tie: Tie = None,
    prior: repeated("NAME=X,SD", "What is known of a constant; SD of its logarithm where it is positive.") = None,
    bounds: repeated("NAME=X,X", "Keep a constant between two numbers.") = None,
    objective: Objective = "huber",
    delta: taking("X", "Huber's corner; 1e-3 by default.") = None,
    overestimate: taking("X", "How much more rows predicted too high weigh.") = "1",
    weights: taking("COL|run|trajectory", "A column; every run the same; rows as they wander along runs.") = None,
    column: Column = None,
    x: X = None,
    unit: Unit = "nats",
    bytes_per_token: BytesPerToken = None,
    drop_bad: DropBad = False,
    skip_steps: SkipSteps = None,
    skip_tokens: SkipTokens = None,
    skip_fraction: SkipFraction = None,
    thin: Thin = None,
    errors: taking("HOW", "auto, sandwich, jackknife (for few runs), bootstrap or none.") = "auto",
    draws: taking("COUNT", "Of the bootstrap.") = "500",
    seed: taking("COUNT", "Of the bootstrap.") = "0",
    compute: taking("FLOPS", "Plan a run of that compute too.") = None,
    output: taking("FIT.json", "Write the fit to a file; with --by, FOLDER/ for parts that resume.", "-o",
                   "--output") = None,
    distributed: flag("--distributed", "One process of a cluster: fit its share of the parts.") = False,
    json: Json = False,
    no_cache: NoCache = False,
):
    """Fit a law's constants to a table of runs.

    Columns are found by name or by a common alias; two of C, N and D are enough. What was chosen is said on stderr.
    Without --law, and without options about constants (--fix, --errors, --by, ...), the answer is a pool of laws with
    its back-test; the constants in the file and in JSON are of kaplan-nsb for several batch sizes, else of chinchilla.
    """
    path = table_path("fit", table, example)
    parts = bool(by and output) and (output.endswith(os.sep) or Path(output).is_dir())
    if parts and compute is not None:
        raise InputError("--compute plans for one fit or for groups that are shown, and -o FOLDER/ shows none: leave "
                         "one of them out.")
    if distributed:
        _join(parts)
    if not parts:
        check_output(output, path)
    question = {
        "objective": objective_of(objective, delta, overestimate),
        "fix": values.numbers_by_name(values.names(fix), "--fix", "alpha_B=0.205", 1),
        "free": values.names(free),
        "tie": [tuple(name.strip() for name in group.split("=")) for group in values.names(tie)],
        "prior": values.numbers_by_name(prior, "--prior", "alpha=0.34,0.05", 2),
        "bounds": values.numbers_by_name(bounds, "--bounds", "beta=0.1,1", 2),
        "weights": weights if weights in WEIGHTS else None,
        "x": x,
        "drop_bad": drop_bad,
        "draws": values.whole(draws, "--draws", 2),
        "seed": values.whole(seed, "--seed"),
    }
    if values.choice(errors, "--errors", ERRORS) != "auto":
        question["errors"] = None if errors == "none" else errors
    budget = None if compute is None else budget_of(compute)
    about_constants = bool(law or by or fix or free or tie or prior or bounds or x or weights == "trajectory"
                           or "errors" in question)
    if pool and by:
        raise InputError("--pool is of one table, and --by makes many: leave one of them out.")
    runs = runs_of(path, weights, column, unit, bytes_per_token)
    runs = shortened(runs, skip_steps, skip_tokens, skip_fraction, thin)
    Law, notes = _law(law, runs)
    if parts:
        return replace(_sweep(Law, runs, values.names(by), output, question), notes=notes)
    try:
        if by:
            answer = _groups(Law, runs, values.names(by), question, budget)
        elif pool or not about_constants:
            answer = _pooled(Law, runs, question, budget, alone=not about_constants)
        else:
            answer = _one(Law, runs, question, budget)
    except FitError as error:
        return misleading(str(error), document=_nothing(Law, len(runs)))
    if not law and "pool" in answer.document:
        notes = ()
    elif about_constants and not law:
        notes = (*notes, "one law and no pool, as options ask about its constants: --pool adds one")
    return replace(answer, notes=(*notes, *answer.notes), output=output, source=path)


def _law(name, runs):
    """The law that is fitted, and a note where the table chose it."""
    import numpy as np

    from jaxscale.task import law_class

    if name is not None:
        return law_class(name), ()
    try:
        several = len(np.unique(runs.select(("N", "S", "B"), drop_bad=True).columns["B"])) > 1
    except InputError:  # the chosen law's own look at the table says what is wrong, if it needs what is
        several = False
    chosen = "kaplan-nsb" if several else "chinchilla"
    why = "has several batch sizes" if several else "does not have several batch sizes"
    return law_class(chosen), (f"law {chosen}, as the table {why}: --law chooses another",)


def _one(Law, runs, question, budget):
    from jaxscale import fitting
    from jaxscale.files import as_document

    with progress_bar("bootstrap", question["draws"]) as progress:
        fit = fitting.fit(Law, runs, progress=progress, **question)
    text, document, notes = str(fit), as_document(fit), (*fit.facts["notes"], *left_out(fit.facts["dropped"]))
    if budget is not None:
        words, document["plan"], more = planned(subject_of(fit), compute=budget)
        text, notes = f"{text}\n\n{words}", (*notes, *more)
    if not fit.converged:
        return misleading("the fit has not converged, so its numbers would mislead: add runs, or --fix a constant.",
                          text, document, notes)
    return Answer(text, document, notes)


def _pooled(Law, runs, question, budget, alone):
    """The pool's answer; `alone`: in place of one law's, whose constants only the document shows."""
    from jaxscale.cli.pooled import pooled

    asked = {"objective": question["objective"], "drop_bad": question["drop_bad"]}
    table = runs.per_run() if question["weights"] == "run" else runs
    if not alone:
        first = _one(Law, runs, question, None)
    try:
        made, text, plan = pooled(table, asked, budget)
    except InputError:
        if not alone:
            raise
        return _one(Law, runs, question, budget)  # too few rows for several laws, or none for this one: it says which
    notes = (*made.facts["notes"], *left_out(made.facts["dropped"]))
    if not alone:
        return replace(first, text=f"{first.text}\n\n{text}", document=first.document | {
            "pool": made.card()["pool"], "plan": plan})
    return Answer(text, made.card() | {"plan": plan}, notes)


def _nothing(Law, points):
    """What JSON says of a fit that there is not."""
    from jaxscale.files import law_name

    return {"law": law_name(Law), "constants": dict.fromkeys(Law.constants), "objective": None, "converged": False,
            "points": points}


def _groups(Law, runs, by, question, budget):
    from jaxscale.files import as_document, law_name, plain
    from jaxscale.groups import fit_groups

    parts = runs.by(by)
    with progress_bar("groups", len(parts)) as progress:
        many = fit_groups(Law, runs, by=by, progress=progress, **question)
    groups, rows, plans = [], [], []
    for (key, part), fit, reason in zip(parts, many.fits, many.reasons, strict=True):
        group = {"group": key} | (as_document(fit) if fit else _nothing(Law, len(part))) | {"reason": reason}
        if fit and budget is not None:
            group["plan"] = planned(subject_of(fit), compute=budget)[1]
            plans.append([*map(short, key.values()), *(short(group["plan"][name]) for name in ("N", "D", "loss"))])
        groups.append(group)
        rows.append([*map(short, key.values()), *(short(group["constants"][name]) for name in Law.constants),
                     short(group["objective"]), "yes" if group["converged"] else "NO", str(group["points"])])
    text = aligned([[*by, *Law.constants, "objective", "converged", "points"], *rows])
    if plans:
        text += f"\n\nat {short(budget)} FLOPs\n" + aligned([[*by, "N", "D", "loss"], *plans])
    document = plain({"law": law_name(Law), "by": by, "confirmed": many.confirmed, "groups": groups})
    why = [f"{_group(key)}: {reason}" for key, reason in zip(many.keys, many.reasons, strict=True) if reason]
    facts = [fit.facts for fit in many.fits if fit]
    notes = dict.fromkeys((*runs.notes, *(note for about in facts for note in about["notes"])))
    dropped = dict.fromkeys((*runs.dropped, *(tuple(row) for about in facts for row in about["dropped"])))
    notes = (*notes, *left_out(dropped), *why)
    if not any(fit and fit.converged for fit in many.fits):
        return misleading(f"none of the {len(groups)} groups has a fit that converged, so the numbers would mislead.",
                          text, document, notes)
    return Answer(text, document, notes)


def _join(parts):
    """Become one process of the cluster that the environment tells of."""
    if not parts:
        raise InputError("--distributed shares out the parts of a sweep, and there are none: add --by and -o FOLDER/.")
    import jax

    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"--distributed wants a cluster that JAX knows by its environment (Slurm, Open MPI, "
                         f"Kubernetes, TPU), and there is none ({error}): leave it out, or call "
                         "jax.distributed.initialize and jaxscale.sweep from Python.") from None


def _sweep(Law, runs, by, folder, question):
    """Groups by parts in a folder."""
    import numpy as np
    import pyarrow.dataset

    from jaxscale.cli.environment import say_when_interrupted
    from jaxscale.files import law_name
    from jaxscale.sweeps import sweep

    say_when_interrupted(f"the finished parts are in {folder}, and the same command goes on from there")
    with progress_bar("groups", len(runs.grouped(by)[0])) as progress:
        sweep(Law, runs, folder, by=by, progress=progress, **question)
    found = pyarrow.dataset.dataset(folder, format="parquet").to_table(columns=["converged", "points", "agreeing"])
    fitted, converged, confirmed = (int(np.sum(found[name].to_numpy() > least)) for name, least in (
        ("points", 0), ("converged", 0), ("agreeing", 1)))
    groups = len(found)
    document = {"law": law_name(Law), "by": by, "folder": folder, "groups": groups, "fitted": fitted,
                "converged": converged, "confirmed": confirmed}
    text = (f"{groups} groups, {fitted} fitted, {converged} converged, {confirmed} of them confirmed by a second start:"
            f" parquet files in {folder}")
    if not converged:
        return misleading(f"none of the {groups} groups has a fit that converged: see the column reason of the files in"
                          f" {folder}.", text, document)
    return Answer(text, document)


def _group(key):
    return ", ".join(f"{name} {short(value)}" for name, value in key.items())