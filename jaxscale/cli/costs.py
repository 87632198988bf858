"""What a plan costs and what it runs on, as options: the cost model and the hardware."""

from jaxscale.cli import values
from jaxscale.cli.options import taking
from jaxscale.errors import InputError

Cost = taking("kaplan|hoffmann", "Count attention (and embeddings) in training FLOPs, not 6 N alone.")
Context = taking("TOKENS", "With --cost: tokens a sequence.")
Vocabulary = taking("TOKENS", "With --cost: tokens of the vocabulary, whose embeddings are counted.")
Aspect = taking("X", "With --cost: d_model over the number of layers, 100 unless given.")
Devices = taking("COUNT", "Devices there are; with --flops and --utilisation the plan says its days.")
Flops = taking("X", "FLOP/s of one device at its peak.")
Utilisation = taking("X", "The share of that which training reaches, such as 0.4.")
LargestBatch = taking("TOKENS", "The largest batch the devices hold.")
LeastStepTime = taking("SECONDS", "What a step takes on any number of devices.")
Price = taking("MONEY", "For an hour of one device.")


def cost_model(name, context, vocabulary, aspect):
    """{"flops_per_token": a function of N}, or nothing where none is named."""
    from jaxscale import units

    given = {"n_ctx": (context, "--context"), "n_vocab": (vocabulary, "--vocabulary"), "aspect": (aspect, "--aspect")}
    given = {argument: values.number(*option) for argument, option in given.items() if option[0] is not None}
    if name is None:
        if given:
            raise InputError("--context, --vocabulary and --aspect are of a cost model: name it with --cost kaplan.")
        return {}
    values.choice(name, "--cost", ("kaplan", "hoffmann"))
    wanted = ("n_ctx", "n_vocab") if name == "hoffmann" else ("n_ctx",)
    if not set(wanted) <= set(given):
        raise InputError(f"--cost {name} needs --context{' and --vocabulary' * (name == 'hoffmann')} in tokens: "
                         f"--context 4096{' --vocabulary 50257' * (name == 'hoffmann')}, say.")
    return {"flops_per_token": (units.kaplan_cost if name == "kaplan" else units.hoffmann_cost)(**given)}


def hardware_of(devices, flops, utilisation, largest_batch, least_step_time, price):
    """{"hardware": Hardware}, or nothing where no device is given."""
    from jaxscale.planning import Hardware

    given = {"devices": devices, "flops": flops, "utilisation": utilisation, "largest_batch": largest_batch,
             "least_step_time": least_step_time, "price": price}
    given = {name: values.number(text, f"--{name.replace('_', '-')}") for name, text in given.items()
             if text is not None}
    missing = [f"--{name}" for name in ("devices", "flops", "utilisation") if name not in given]
    if given and missing:
        raise InputError(f"hardware is told by --devices, --flops and --utilisation, and there is no "
                         f"{' and no '.join(missing)}: --devices 1024 --flops 1e15 --utilisation 0.4, say.")
    return {"hardware": Hardware(**given)} if given else {}
