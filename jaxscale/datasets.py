"""Tables of runs inside the package."""

from importlib import resources

from jaxscale.tables import read_table

TABLES = ("ladder",)


def path(name):
    """Where a table of `TABLES` lies."""
    return resources.files("jaxscale") / "data" / f"{name}.csv.gz"


def card(name):
    """What a table holds and how it was made, as Markdown: hardware, models, corpus, tuning, licence, known flaws."""
    return (resources.files("jaxscale") / "data" / f"{name}.md").read_text(encoding="utf-8")


def ladder():
    """The project's own runs as a DataFrame: whole loss trajectories of small transformers at several batch sizes.

    Real training (`benchmarks/ladder/`), bytes as tokens: run, role ("fit", or "target" for the large model that was
    forecast before it was trained), N, B, S, D, loss on the training mix, loss_prose on another kind of text,
    loss_train, the shape, seed and learning rate. The first 200 steps of each run are warm-up and its wake. What the
    runs were and what is wrong with them: `print(datasets.card("ladder"))`.
    """
    return read_table(path("ladder"))
