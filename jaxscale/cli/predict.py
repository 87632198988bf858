"""`jaxscale predict`: the loss of a run from a fit or a published law."""

from jaxscale.cli import values
from jaxscale.cli.answer import UNITS, Answer, aligned, misleading, short
from jaxscale.cli.options import FitFile, Json, NoCache, Published, taking
from jaxscale.cli.subject import read_pool, read_subject

LEVEL, DRAWS = 0.95, 1000
POOLED = 0.8  # of a pool's intervals, as in its back-test


def predict(
    path: FitFile = None,
    law: Published = None,
    N: taking("X", "Parameters.", "--N") = None,
    D: taking("X", "Tokens.", "--D") = None,
    S: taking("X", "Steps.", "--S") = None,
    B: taking("X", "Tokens per step.", "--B") = None,
    C: taking("X", "FLOPs.", "--C") = None,
    M: taking("X", "Tokens per parameter.", "--M") = None,
    N_active: taking("X", "Parameters that one token meets.", "--N-active") = None,
    N_total: taking("X", "All parameters, of a mixture of experts.", "--N-total") = None,
    experts: taking("X", "Experts of a routed layer.") = None,
    n_ctx: taking("X", "Context length, tokens.", "--n-ctx") = None,
    S1: taking("X", "Area under the learning rates, for a law that reads it.", "--S1") = None,
    S2: taking("X", "Area of their annealing, for a law that reads it.", "--S2") = None,
    loss: taking("X", "Nats per token, for a law that reads them.") = None,
    unique_tokens: taking("X", "Tokens before any is repeated, for a law that reads them.") = None,
    x: taking("X", "What a power-law reads.", "--x") = None,
    json: Json = False,
    no_cache: NoCache = False,
):
    """Predict the loss of a run, by one law, or by the pool in a file of 'jaxscale fit' without --law.

    Each X may be several numbers between commas. Any of them that give what the law reads will do: D = B S, C = 6 N D.
    """
    import jax
    import numpy as np

    from jaxscale.files import plain
    from jaxscale.prediction import evaluate, law_inputs, outside

    given = {"N": N, "D": D, "S": S, "B": B, "C": C, "M": M, "N_active": N_active, "N_total": N_total,
             "experts": experts, "n_ctx": n_ctx, "S1": S1, "S2": S2, "loss": loss, "unique_tokens": unique_tokens,
             "x": x}
    given = {name: values.numbers(text, f"--{name.replace('_', '-')}") for name, text in given.items()
             if text is not None}
    pool = read_pool(path) if law is None else None
    if pool:
        return _by_pool(pool, given)
    subject = read_subject(path, law)
    law, names = subject.law, subject.columns
    inputs, shape = law_inputs(law, {names.get(name, name): value for name, value in given.items()}, names)
    found = {law.output: evaluate(law, inputs)}
    if subject.spread:
        drawn = evaluate(subject.fit.sample(DRAWS), inputs)
        found["low"], found["high"] = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    if hasattr(law, "critical_batch_size"):
        with jax.enable_x64(True):
            found["B_crit"] = np.asarray(law.critical_batch_size(found["loss"]))
    table = {names[name]: value for name, value in inputs.items()} | found
    text = aligned([list(table), *([short(x) for x in row] for row in zip(*table.values(), strict=True))])
    text += f"\n\n{law.output} in {UNITS[law.output]}"
    if subject.spread:
        text += f"; low to high holds {LEVEL:.0%} of {DRAWS} laws drawn from its covariance, and not a run's own noise"
    document = {name: np.reshape(value, shape)[()] for name, value in found.items() if name not in ("low", "high")}
    if subject.spread:
        document["interval"] = {"level": LEVEL, "draws": DRAWS,
                                **{end: np.reshape(found[end], shape)[()] for end in ("low", "high")}}
    document["inputs"] = {names[name]: np.reshape(value, shape)[()] for name, value in inputs.items()}
    notes = tuple(f"{sentence}: this is an extrapolation" for sentence in outside(subject.ranges, inputs))
    document = plain(document)
    reason = subject.reason
    if not np.isfinite(found[law.output]).all():
        reason = f"the law gives no finite {law.output} at these inputs: check its constants, and the inputs."
    return misleading(reason, text, document, notes) if reason else Answer(text, document, notes)


def _by_pool(pool, given):
    """The answer of a pool of laws."""
    import numpy as np

    from jaxscale.cli.pooled import extrapolations
    from jaxscale.files import plain

    found = {"loss": pool.predict(**given), "distance": pool.distance(**given)}
    low, high = pool.predict_interval(POOLED, **given)
    table = {name: np.ravel(np.broadcast_to(x, found["loss"].shape)) for name, x in (
        *given.items(), ("loss", found["loss"]), ("low", low), ("high", high), ("times beyond", found["distance"]))}
    text = aligned([list(table), *([short(x) for x in row] for row in zip(*table.values(), strict=True))])
    text += (f"\n\nloss in nats per token, by {len(pool.members)} fits pooled; low to high holds {POOLED:.0%} of new "
             f"runs, as back-tests tell; times beyond: the largest {pool.facts['along']} of the table\n{pool.said()}")
    each = [{"law": law, "early": early, "loss": loss} for (law, early), loss in pool.each(**given).items()]
    document = found | {"interval": {"level": POOLED, "low": low, "high": high}, "inputs": given, "each": each}
    return Answer(text, plain(document), extrapolations(pool, given))
