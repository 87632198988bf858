"""Tables of runs inside the package."""

from importlib import resources

from jaxscale.errors import InputError, nearest
from jaxscale.tables import read_table

TABLES = ("ladder",)


def path(name):
    """Where a table of `TABLES` lies. Raises InputError for another name."""
    return _data(name, "csv.gz")


def card(name):
    """What a table holds and how it was made, as Markdown: hardware, models, corpus, tuning, licence, known flaws.

    Raises InputError for a name that is not in `TABLES`.
    """
    return _data(name, "md").read_text(encoding="utf-8")


def ladder():
    """The project's own runs as a DataFrame: whole loss trajectories of small transformers at several batch sizes.

    Real training (`benchmarks/ladder/`), bytes as tokens: run, role ("fit"; "target" for the large model that was
    forecast before it was trained; "other depth"), N, B, S, D, loss on the training mix, loss_prose on another kind of
    text, loss_train, the shape, seed and learning rate lr. The first 400 to 600 steps of a run are warm-up and its
    wake. What the runs were and what is wrong with them: `print(datasets.card("ladder"))`.
    """
    return read_table(path("ladder"))


def _data(name, suffix):
    if name not in TABLES:
        raise InputError(f"a table inside the package must be one of {', '.join(TABLES)}, not {name!r}"
                         f"{nearest(name, TABLES) or '.'}")
    return resources.files("jaxscale") / "data" / f"{name}.{suffix}"
