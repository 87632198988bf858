"""`jaxscale plan`: what to train with a budget, or the least budget for a loss."""

from jaxscale.cli import values
from jaxscale.cli.answer import UNITS, Answer, misleading
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
from jaxscale.cli.subject import read_pool, read_subject
from jaxscale.errors import InputError

LEVEL, DRAWS = 0.8, 1000
EXTRA = 0.01  # how much more compute the flat range may cost


def plan(
    path: FitFile = None,
    law: Published = None,
    compute: taking("FLOPS", "The budget; several between commas.") = None,
    loss: taking("NATS", "In place of a budget: the least compute for that loss.") = None,
    batch: taking("critical|free|TOKENS", "The batch size, for laws that read it; free needs --max-days.") = "critical",
    tradeoff: taking("X", "In place of --batch: the batch size where time counts X times as much as compute.") = None,
    convention: taking("exact|printed", "Eq 5.1 of Su et al. 2024 exactly, or with its compute as printed.") = "exact",
    cost: Cost = None,
    context: Context = None,
    vocabulary: Vocabulary = None,
    aspect: Aspect = None,
    inference_tokens: taking("TOKENS", "Tokens the model will see in use, whose compute counts too.") = None,
    unique_tokens: taking("TOKENS", "Tokens before any is repeated, for laws that read them.") = None,
    max_N: taking("X", "The most parameters.", "--max-N") = None,
    max_tokens: taking("TOKENS", "The most tokens: how many there are, without repeats.") = None,
    max_days: taking("DAYS", "The most days of training, by the devices below.") = None,
    devices: Devices = None,
    flops: Flops = None,
    utilisation: Utilisation = None,
    largest_batch: LargestBatch = None,
    least_step_time: LeastStepTime = None,
    price: Price = None,
    json: Json = False,
    no_cache: NoCache = False,
):
    """The model size, data and batch for the least loss at a compute, or for the least compute at a loss."""
    if (compute is None) == (loss is None):
        raise InputError("plan wants one of --compute (FLOPs) and --loss (nats), not "
                         f"{'neither' if loss is None else 'both'}: --compute 1e21, say.")
    if tradeoff is not None and batch != "critical":
        raise InputError(f"--tradeoff chooses the batch size, and so does --batch {batch}: leave one of them out.")
    name, text = ("compute", compute) if loss is None else ("loss", loss)
    question = {name: values.numbers(text, f"--{name}")}
    limits = {"inference_tokens": inference_tokens, "unique_tokens": unique_tokens, "max_N": max_N,
              "max_tokens": max_tokens, "max_days": max_days}
    question |= {name: values.number(text, f"--{name.replace('_', '-')}") for name, text in limits.items()
                 if text is not None}
    question |= cost_model(cost, context, vocabulary, aspect)
    question |= hardware_of(devices, flops, utilisation, largest_batch, least_step_time, price)
    question |= {"batch": _policy(batch, tradeoff), "convention": convention}
    pool = read_pool(path) if law is None else None
    if pool:
        from jaxscale.cli.pooled import answered, extrapolations, plan_document
        from jaxscale.files import plain

        best = pool.plan(level=LEVEL, **question)
        return Answer(answered(best, pool), plain(plan_document(best, pool)),
                      extrapolations(pool, {"N": best.N, "D": best.D}))
    subject = read_subject(path, law)
    text, document, notes = planned(subject, **question)
    return misleading(subject.reason, text, document, notes) if subject.reason else Answer(text, document, notes)


def _policy(batch, tradeoff):
    from jaxscale import planning

    if tradeoff is not None:
        return planning.tradeoff(values.number(tradeoff, "--tradeoff"))
    if batch == "free":
        return None
    return batch if batch.isalpha() else values.number(batch, "--batch")  # words are for the planner to know


def planned(subject, **question):
    """A plan as text, JSON data and notes, with the flat range, and intervals where the covariance is known."""
    import numpy as np

    from jaxscale.files import plain
    from jaxscale.planning import plan as make_plan
    from jaxscale.prediction import outside

    best = make_plan(subject.law, **question)
    quantities = {name: value for name, value in best.quantities().items() if value is not None}
    low, high = best.flat(EXTRA)
    document, ends = quantities | {"flat": {"extra": EXTRA, "N": [low.N, high.N]}}, None
    if subject.spread:
        ends = make_plan(subject.fit.sample(DRAWS), **question).interval(LEVEL)
        document["interval"] = {"level": LEVEL, "draws": DRAWS} | {
            name: [getattr(end, name) for end in ends] for name in quantities if name not in question}
    blocks = []
    for i in range(np.size(best.compute)):
        lines = []
        for name, value in quantities.items():
            line = f"{name:<8}{form(name, value, i):>11} {UNITS[name]:<15}"
            if ends and name not in question:
                line += f"  {form(name, getattr(ends[0], name), i)} to {form(name, getattr(ends[1], name), i)}"
            lines.append(line.rstrip())
        if np.ravel(high.N)[i] > np.ravel(low.N)[i] * (1 + 1e-3):  # not where a limit binds
            lines.append(f"Up to {EXTRA:.0%} more compute for the same loss: {form('N', low.N, i)} to "
                         f"{form('N', high.N, i)} parameters.")
        blocks.append("\n".join(lines))
    if ends:
        blocks.append(f"The intervals hold {LEVEL:.0%} of the plans of {DRAWS} laws drawn from the fit's covariance.")
    return "\n\n".join(blocks), plain(document), tuple(
        f"{sentence}: this is an extrapolation" for sentence in outside(subject.ranges, quantities))


def form(name, values, i):
    """One of the values as text."""
    import numpy as np

    digits = {"loss": ".4f", "days": ".4g", "epochs": ".4g", "devices": ".4g", "weight": ".3g", "more": ".1%"}
    return format(np.ravel(values)[i], digits.get(name, ".3e"))
