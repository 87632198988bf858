"""The typer application: the verbs, and --version."""

from typing import Annotated

import typer

from jaxscale.cli.approaches import approaches
from jaxscale.cli.backtest import backtest
from jaxscale.cli.compare import compare
from jaxscale.cli.design import design
from jaxscale.cli.fit import fit
from jaxscale.cli.forecast import forecast
from jaxscale.cli.laws import laws
from jaxscale.cli.pareto import pareto
from jaxscale.cli.plan import plan
from jaxscale.cli.predict import predict
from jaxscale.cli.recipe import recipe
from jaxscale.cli.verify import verify


def _version(wanted: bool):
    if wanted:
        import jaxscale

        print(f"jaxscale {jaxscale.__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which this is.")]


def _app(version: Version = False):
    """Fit neural scaling laws to tables of runs, predict large runs from small ones, and plan them.

    Numbers may be written 33e9, 33B, 300k, 4M or 1.5T. Exit code 0: done, 1: the numbers would mislead, 2: bad input.
    """


def command():
    """The application as a click command."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
                      context_settings={"help_option_names": ["-h", "--help"]})
    app.callback()(_app)
    for verb in (design, fit, predict, plan, pareto, forecast, backtest, recipe, approaches, compare, verify, laws):
        app.command()(verb)
    return typer.main.get_command(app)
