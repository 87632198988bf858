"""Batch sizes while a model trains: from the loss by a law, from a measured noise scale, or from the step.

    sizes = schedules.BatchSizes(unit=2048, powers=True, most=2**20)
    rule = training.batch_rule(training.optimal_batch(law, N=1e8, step_price=1e6), sizes)
    state = rule.init()
    state = rule.update(state, loss)  # inside the train step; state.batch is the next step's

A batch size that decides shapes is read on the host, `int(state.batch)`, and each new one compiles once. As the number
of micro-batches of a loop, `lax.fori_loop(0, state.batch // micro, ...)`, it changes inside a compiled step.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.errors import InputError
from jaxscale.planning.questions import positive
from jaxscale.schedules import BatchSizes
from jaxscale.training.averages import check_decay


def optimal_batch(law, N, step_price):
    """loss -> B = sqrt(step_price B_noise(L)), tokens: where D + step_price S is least at every loss, `schedules`.

    `law.critical_batch_size` is the paper's policy in its place, which takes more steps for the same tokens.

    Args:
        law: `KaplanNSB` of numbers. N: parameters.
        step_price: the tokens that one step fewer is worth; about the mean noise scale where both count alike.

    >>> from jaxscale import laws, training
    >>> batch = training.optimal_batch(laws.published["su2024-c4"], N=1e9, step_price=1e6)
    >>> print(f"{float(batch(3.0)):.3g} {float(batch(2.7)):.3g}")
    1.12e+06 1.31e+06
    """
    price, N = (float(positive(value, name, unit, one=True)) for value, name, unit in
                ((step_price, "step_price", "tokens"), (N, "N", "parameters")))
    return lambda loss: jnp.sqrt(price * law.noise_scale(N, loss))


def optimal_batch_of_noise(step_price):
    """B_noise -> B = sqrt(step_price B_noise), tokens: `optimal_batch` by a measured scale, as `NoiseAverage.scale`.

    A measured scale need not be the law's: Adam is outside its derivation, so see what ratio the two have.

    >>> from jaxscale import training
    >>> float(training.optimal_batch_of_noise(1e6)(4e6))
    2000000.0
    """
    price = float(positive(step_price, "step_price", "tokens", one=True))
    return lambda scale: jnp.sqrt(price * scale)


class BatchState(NamedTuple):
    """The batch size now, and what the next is decided by: an ordinary pytree of numbers."""

    batch: jax.Array  # tokens per step, int32
    asked: jax.Array  # the smallest size of those asked for lately, all above `batch`
    times: jax.Array  # how many updates in a row asked for more
    average: jax.Array  # of what is measured
    weight: jax.Array


class BatchRule(NamedTuple):
    """Two pure functions, as of an optax transformation: init() -> state, update(state, measured) -> state."""

    init: Callable
    update: Callable


def batch_rule(policy, sizes, decay=0.98, patience=20):
    """A batch size that grows along a run, among those allowed -> `BatchRule`.

    What is measured is averaged; the policy says the batch size for it; the size allowed nearest to that is asked for.
    Once `patience` updates in a row have asked for more, the batch grows to the smallest that they asked for. It never
    shrinks. A measurement that is not finite, or for which the policy has no size, changes nothing.

    Args:
        policy: a jit-able function of what is measured -> tokens per step: `optimal_batch` or
            `law.critical_batch_size` of the loss, `optimal_batch_of_noise` of a noise scale, or your own.
        sizes: a `schedules.BatchSizes` of a whole unit; the first batch is the smallest, and all are below 2^31 tokens.
        decay: of the average; 0 for a scale that is one already.
        patience: updates, 1 for none.

    Raises:
        InputError: a bad decay, patience or unit.

    >>> from jaxscale import laws, schedules, training
    >>> law = laws.published["su2024-c4"]
    >>> rule = training.batch_rule(law.critical_batch_size, schedules.BatchSizes(2048, powers=True), patience=2)
    >>> state = rule.init()
    >>> for loss in (7.0, 3.0, float("nan"), 3.0, 3.0):
    ...     state = rule.update(state, loss)
    >>> int(state.batch)  # the mean loss was 7, 5, 4.33 and 4: 16,384 was asked for at first, then 131,072
    131072
    """
    check_decay(decay)
    if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
        raise InputError(f"patience must be a whole number of updates, 1 or more, not {patience!r}.")
    if not isinstance(sizes, BatchSizes) or sizes.unit != int(sizes.unit):
        raise InputError(f"sizes must be a schedules.BatchSizes of a whole number of tokens, not {sizes!r}.")
    unit = int(sizes.unit)

    def init():
        return BatchState(*(jnp.array(x, jnp.int32) for x in (sizes.first, sizes.first, 0)),
                          *(jnp.array(x, jnp.float32) for x in (0, 0)))

    def update(state, measured):
        measured = jnp.asarray(measured, state.average.dtype)
        weight = decay * state.weight + 1
        average = state.average + (measured - state.average) / weight
        wanted = policy(average)
        units = jnp.round(sizes.nearest(jnp.minimum(wanted, 2.0**31 - 2.0**8 - unit)) / unit)
        asked = units.astype(jnp.int32) * unit
        more = asked > state.batch
        lowest = jnp.where(state.times > 0, jnp.minimum(state.asked, asked), asked)
        times = jnp.where(more, state.times + 1, 0)
        grown = times >= patience
        new = BatchState(jnp.where(grown, lowest, state.batch), lowest, jnp.where(grown, 0, times), average, weight)
        usable = jnp.isfinite(measured) & jnp.isfinite(wanted)
        return jax.tree.map(lambda new, old: jnp.where(usable, new, old), new, state)

    return BatchRule(init, update)


def batch_schedule(schedule):
    """step -> batch size, tokens as int32, of a `schedules.Schedule` computed ahead: as optax's schedules, from step 0.

    Past the schedule's end the last batch size stays.

    >>> from jaxscale import laws, schedules, training
    >>> ahead = schedules.optimal(laws.published["su2024-c4"], N=1e9, loss=2.7, tokens=5e10)
    >>> batch = training.batch_schedule(ahead.rounded(unit=2**17, powers=True))
    >>> [int(batch(step)) for step in (0, 338, 339, 60_000)]
    [131072, 131072, 262144, 1048576]
    """
    if schedule.B.max() >= 2**31 or schedule.S.max() >= 2**31:
        raise InputError("steps and batch sizes must be below 2^31 here: count batches in sequences, not tokens.")
    until, batches = np.round(schedule.S).astype(np.int32), np.round(schedule.B).astype(np.int32)

    def batch(step):
        row = jnp.searchsorted(until, step, side="right")
        return jnp.asarray(batches)[jnp.minimum(row, len(batches) - 1)]

    return batch
