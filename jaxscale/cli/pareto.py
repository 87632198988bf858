"""`jaxscale pareto`: time against compute."""

from jaxscale.cli import values
from jaxscale.cli.answer import Answer, aligned, misleading
from jaxscale.cli.costs import (
    Aspect,
    Context,
    Cost,
    Devices,
    Flops,
    LargestBatch,
    LeastStepTime,
    Price,
    Utilisation,
    Vocabulary,
    cost_model,
    hardware_of,
)
from jaxscale.cli.options import FitFile, Json, NoCache, Published, taking
from jaxscale.cli.plan import DRAWS, LEVEL, form
from jaxscale.cli.subject import read_subject
from jaxscale.errors import InputError

QUANTITIES = ("N", "D", "S", "B", "weight", "devices", "money")


def pareto(
    path: FitFile = None,
    law: Published = None,
    loss: taking("NATS", "The loss to reach.") = None,
    days: taking("DAYS", "Where to lay the curve; several between commas.") = None,
    devices: Devices = None,
    flops: Flops = None,
    utilisation: Utilisation = None,
    least_step_time: LeastStepTime = None,
    largest_batch: LargestBatch = None,
    price: Price = None,
    cost: Cost = None,
    context: Context = None,
    vocabulary: Vocabulary = None,
    aspect: Aspect = None,
    json: Json = False,
    no_cache: NoCache = False,
):
    """The least compute to a loss against the days that the run takes, for laws that say their critical batch size.

    It needs --loss, and the hardware by --devices, --flops, --utilisation and --least-step-time.
    """
    import numpy as np

    from jaxscale.files import plain
    from jaxscale.planning import pareto as make_pareto
    from jaxscale.prediction import outside

    if loss is None:
        raise InputError("pareto wants --loss, the loss to reach in nats: --loss 2.2, say.")
    question = {"loss": values.number(loss, "--loss"), "hardware": None} | hardware_of(
        devices, flops, utilisation, largest_batch, least_step_time, price)
    question |= cost_model(cost, context, vocabulary, aspect)
    subject = read_subject(path, law)
    curve = make_pareto(subject.law, days=None if days is None else values.numbers(days, "--days"), **question)
    columns = {"days": curve.days, "compute": curve.compute, "more": curve.extra} | {
        name: getattr(curve, name) for name in QUANTITIES if getattr(curve, name) is not None}
    document, text = columns | {"least": curve.least, "fastest": curve.fastest}, ""
    table = {name: [form(name, column, i) for i in range(len(curve.days))] for name, column in columns.items()}
    if subject.spread:
        many = make_pareto(subject.fit.sample(DRAWS), days=curve.days, **question)
        ends = [end.compute for end in many.plan.interval(LEVEL)]
        document["interval"] = {"level": LEVEL, "draws": DRAWS, "compute": ends}
        table["compute, low"], table["high"] = ([form("compute", end, i) for i in range(len(end))] for end in ends)
        text = f"\ncompute, low to high holds {LEVEL:.0%} of {DRAWS} laws drawn from the fit's covariance"
    rows = aligned([list(table), *zip(*table.values(), strict=True)])
    text = (f"{rows}\n\n'more' is over the {curve.least:.3e} FLOPs of a run that may take for ever; nothing is faster "
            f"than {curve.fastest:.4g} days{text}")
    notes = tuple(f"{sentence}: this is an extrapolation" for sentence in outside(
        subject.ranges, {name: np.asarray(columns[name]) for name in ("N", "D", "S", "B")}))
    document = plain(document)
    return misleading(subject.reason, text, document, notes) if subject.reason else Answer(text, document, notes)
