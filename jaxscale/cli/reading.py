"""What verbs that take a table of runs have in common: reading it, shortening it, and the file they write."""

import os
from pathlib import Path

from jaxscale.cli import values
from jaxscale.errors import InputError

WEIGHTS = ("run", "trajectory")  # that are no column
OBJECTIVES = ("huber", "lad", "squares", "squares-loss")
LISTED = 5  # rows named one by one in a note


def table_path(verb, table, example):
    """Where the table of runs lies: the one named, or an example inside the package."""
    if (table is None) == (example is None):
        raise InputError(f"{verb} wants one of a table of runs and --example, not {'both' if example else 'neither'}: "
                         f"jaxscale {verb} runs.csv, or jaxscale {verb} --example ladder.")
    if example is None:
        return table
    from jaxscale.datasets import TABLES, path

    return str(path(values.choice(example, "--example", TABLES)))


def check_output(output, table):
    """Before the fit what would fail after it."""
    if output is None:
        return
    output, folder = Path(output), Path(output).parent
    if output.exists() and Path(table).exists() and output.samefile(table):
        raise InputError(f"-o must not name the table itself, {output}: name another file.")
    if output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        there = "it is a folder" if output.is_dir() else f"{folder} is not one"
        raise InputError(f"-o must name a file in a folder that can be written, and {there}: choose another place than "
                         f"{output}.")


def objective_of(name, delta, overestimate):
    from jaxscale.objectives import huber, lad, squares

    values.choice(name, "--objective", OBJECTIVES)
    if delta is not None and name != "huber":
        raise InputError(f"--delta is the corner of Huber's function, which --objective {name} has not: leave it out.")
    overestimate = values.number(overestimate, "--overestimate")
    if name == "huber":
        return huber(values.number(delta or "1e-3", "--delta"), overestimate=overestimate)
    if name == "lad":
        return lad(overestimate=overestimate)
    return squares(log=name == "squares", overestimate=overestimate)


def runs_of(path, weights, column, unit, bytes_per_token):
    from jaxscale.tables import read_runs

    return read_runs(path, columns=values.assignments(column, "--column", "N=my_name"),
                     weights=None if weights in WEIGHTS else weights, unit=unit,
                     bytes_per_token=bytes_per_token and values.number(bytes_per_token, "--bytes-per-token"))


def shortened(runs, skip_steps, skip_tokens, skip_fraction, thin):
    """The runs without their warm-up, and with few rows of each."""
    cut = {"steps": (skip_steps, "--skip-steps"), "tokens": (skip_tokens, "--skip-tokens"),
           "fraction": (skip_fraction, "--skip-fraction")}
    cut = {name: values.number(*given) for name, given in cut.items() if given[0] is not None}
    if cut:
        runs = runs.after_warm_up(**cut)
    return runs if thin is None else runs.thin(values.whole(thin, "--thin", 1))


def budget_of(compute):
    """Before the fit what would fail after it."""
    from jaxscale.planning import check_compute

    return float(check_compute(values.number(compute, "--compute")))


def left_out(dropped):
    """One line for each reason that rows were left out for."""
    reasons = {}
    for row, reason in dropped:
        reasons.setdefault(reason, []).append(row)
    return [f"left out row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:LISTED]))}"
            f"{f' and {len(rows) - LISTED} more' if len(rows) > LISTED else ''}: {reason}"
            for reason, rows in reasons.items()]
