"""Noise scales inside an optimiser: optax transformations that measure, and pass the updates through unchanged."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxscale.errors import InputError
from jaxscale.training.accumulation import MicroBatches
from jaxscale.training.averages import NoiseAverage, check_decay
from jaxscale.training.gradients import layer_names


def track_noise(decay=0.99, depth=0):
    """A transformation whose state averages the noise that `update` is given -> `GradientTransformationExtraArgs`.

    The state is a `NoiseAverage`; `noise_average(opt_state)` finds it anywhere in the optimiser's. A step without
    `noise=` leaves it as it is. So to measure every tenth step, at a tenth of the cost, compile two steps, one that
    measures and one that does not, and take the one or the other (benchmarks/in_training.md); a `lax.cond` around the
    norms saved nothing.

    Args:
        decay: of the average, by measurement.
        depth: that of the measurements, 0 for the whole alone.

    Raises:
        InputError: a decay outside [0, 1).

    >>> import jax.numpy as jnp, optax
    >>> from jaxscale import training
    >>> optimiser = optax.chain(training.track_noise(), optax.adam(1e-3))
    >>> params = {"w": jnp.zeros(2)}
    >>> state = optimiser.init(params)
    >>> gradient, noise = training.MicroBatches.of(params).add({"w": jnp.array([1.0, 2.0])}).add(
    ...     {"w": jnp.array([3.0, 2.0])}).finish(batch=512)
    >>> updates, state = optimiser.update(gradient, state, params, noise=noise)
    >>> print(f"{float(training.noise_average(state).scale):.1f}")
    146.3
    """
    check_decay(decay)

    def update(updates, state, params=None, *, noise=None, **extra):
        return updates, state if noise is None else state.add(noise, decay)

    return optax.GradientTransformationExtraArgs(lambda params: _empty(params, depth), update)


class Tracked(NamedTuple):
    """State of `track_micro_batches`: a sum in the making, the average, and the gradients since a measurement began."""

    sum: MicroBatches
    average: NoiseAverage
    turn: jax.Array


def track_micro_batches(batch, count, decay=0.99, depth=0, every=1):
    """A transformation that measures the noise of every `count` gradients it is given -> `GradientTransformation`.

    Before `optax.MultiSteps(...).gradient_transformation()` in a chain these are its micro-batches, and nothing else
    changes. Before any other optimiser they are successive steps: a noise scale from a loop without micro-batches or
    devices, biased by what the true gradient changes over `count` steps (the noise comes out too large). The state
    holds one copy of the gradients.

    Args:
        batch: tokens (or sequences) of each gradient.
        count: gradients to a measurement, 2 or more.
        decay: of the average, by measurement.
        depth: 0 for the whole, 1 for values by top-level key too, as in `layer_names`.
        every: 10, say, measures `count` gradients and lets 9 times as many by, at next to no cost.

    Raises:
        InputError: fewer than 2 gradients, a decay outside [0, 1), or an `every` that is no number of measurements.

    >>> import jax.numpy as jnp, optax
    >>> from jaxscale import training
    >>> accumulated = optax.MultiSteps(optax.adam(1e-3), every_k_schedule=2).gradient_transformation()
    >>> optimiser = optax.chain(training.track_micro_batches(batch=512, count=2), accumulated)
    >>> params = jnp.zeros(2)
    >>> state = optimiser.init(params)
    >>> for gradient in jnp.array([[1.0, 2.0], [3.0, 2.0]]):
    ...     updates, state = optimiser.update(gradient, state, params)
    >>> print(f"{float(training.noise_average(state).scale):.1f}")
    146.3
    """
    check_decay(decay)
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise InputError(f"count must be a whole number of gradients, 2 or more, not {count!r}.")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise InputError(f"every must be a whole number, 1 to measure always or 10 for a tenth, not {every!r}.")

    def init(params):
        return Tracked(MicroBatches.of(params, depth), _empty(params, depth), jnp.zeros((), jnp.int32))

    def finished(total, average):
        _, noise = total.finish(batch)
        return MicroBatches.of(total.total, depth), average.add(noise, decay)

    def watched(updates, total, average):
        total = total.add(updates)
        return jax.lax.cond(total.count == count, finished, lambda *same: same, total, average)

    def update(updates, state, params=None, **extra):
        seen = jax.lax.cond(state.turn < count, watched, lambda updates, *same: same, updates, state.sum, state.average)
        return updates, Tracked(*seen, (state.turn + 1) % (count * every))

    return optax.GradientTransformationExtraArgs(init, update)


def noise_average(opt_state):
    """The one `NoiseAverage` in an optimiser's state.

    Raises:
        InputError: there is none, or more than one.
    """
    found = [leaf for leaf in jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, NoiseAverage))
             if isinstance(leaf, NoiseAverage)]
    if len(found) != 1:
        raise InputError(f"the state holds {len(found)} noise averages, and one was wanted: put one track_noise or "
                         "track_micro_batches into the chain.")
    return found[0]


def _empty(params, depth):
    names = layer_names(params, depth)
    return NoiseAverage.of((len(names),) if depth else ())
