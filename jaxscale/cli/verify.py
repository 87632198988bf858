"""`jaxscale verify`: does a fit come out again?"""

from jaxscale.cli import values
from jaxscale.cli.answer import Answer, misleading
from jaxscale.cli.options import BytesPerToken, FitFile, Json, NoCache, Unit, file, repeated
from jaxscale.errors import InputError


def verify(
    card: FitFile = None,
    table: file("TABLE", "The table it was fitted to: csv, jsonl, json (.gz or not) or parquet.") = None,
    column: repeated("N=COL", "The column of a quantity, in place of the fit's own; repeatable.") = None,
    unit: Unit = "nats",
    bytes_per_token: BytesPerToken = None,
    json: Json = False,
    no_cache: NoCache = False,
):
    """Fit the table again as the file says, and compare.

    Exit code 1 where data, constants, objective, or the back-test of a pool differ.
    """
    if card is None or table is None:
        raise InputError("verify wants a fit and the table it was fitted to: jaxscale verify fit.json runs.csv")
    from jaxscale.cards import asked_of
    from jaxscale.cards import verify as again
    from jaxscale.files import plain, read_document
    from jaxscale.tables import read_runs

    card = read_document(card)
    columns = asked_of(card)["columns"] | values.assignments(column, "--column", "N=my_name")
    runs = read_runs(table, columns=columns, unit=unit,
                     bytes_per_token=bytes_per_token and values.number(bytes_per_token, "--bytes-per-token"))
    found = again(card, runs)
    document = plain({"reproduces": found.reproduces, "same_data": found.same_data, "off": found.off,
                      "constants": {name: getattr(found.fit.law, name) for name in found.off},
                      "objective": found.fit.objective, "converged": found.fit.converged, "backtest": found.backtest})
    if not found.reproduces:
        return misleading("the fit does not come out again: see what is off.", str(found), document)
    return Answer(str(found), document)
