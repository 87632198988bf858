"""What one step gains at a batch size: the measured side of Eqs 3.5 to 3.7 of Su et al. 2024."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxscale.errors import InputError
from jaxscale.training.gradients import _count


class Step(NamedTuple):
    """The best step size of plain gradient descent, and the mean decrease of the loss that it brings."""

    rate: jax.Array
    decrease: jax.Array


def best_step(loss, params, gradients, rates):
    """The one step size at which steps along noisy gradients lower a loss most, on average -> `Step`.

    Eq 3.5 in the mean over gradients of B tokens: decrease = rate |G|^2 - rate^2 (G^T H G + tr(H Sigma)/B)/2. At its
    best rate it is 1/(1 + B_noise/B) of what the noiseless gradient gains (Eq 3.7), B_noise that of `curvature_noise`.
    The best of `rates` is refined by the parabola through it and its neighbours, which is exact where the loss is
    quadratic. Average micro-batches into gradients of several sizes to see the curve, and take the loss of other data.

    Args:
        loss: params -> scalar, called once for each gradient and rate.
        gradients: pytree whose leaves have a leading axis of K >= 2 gradients, all of one batch size.
        rates: three or more rising step sizes [r]. Where the best is at an end, it is that one.

    Raises:
        InputError: fewer than three rates, or gradients without a shared leading axis.

    >>> import jax.numpy as jnp
    >>> from jaxscale import training
    >>> noisy = jnp.array([[3.0, 1.0], [1.0, 1.0]])  # about a gradient of [2, 1], by which the best step gains 2.5
    >>> step = training.best_step(lambda w: (w**2).sum() / 2, jnp.array([2.0, 1.0]), noisy, jnp.array([0.5, 1.0, 1.5]))
    >>> print(f"{float(step.rate):.4f} {float(step.decrease):.4f}")
    0.8333 2.0833
    """
    _count(gradients)
    rates = jnp.asarray(rates)
    if rates.ndim != 1 or len(rates) < 3:
        raise InputError(f"rates must be three or more rising step sizes, not an array of shape {rates.shape}.")
    before = loss(params)

    def gain(rate):
        def one(gradient):
            return before - loss(jax.tree.map(lambda value, slope: value - rate * slope, params, gradient))

        return jax.lax.map(one, gradients).mean()

    gains = jax.lax.map(gain, rates)
    best = jnp.nanargmax(gains)
    near = jnp.clip(best, 1, len(rates) - 2) + jnp.arange(-1, 2)
    (x0, x1, x2), (y0, y1, y2) = rates[near], gains[near]
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    bend = (right - left) / (x2 - x0)
    top = (x0 + x1) / 2 - left / (2 * jnp.where(bend < 0, bend, -1))
    inside = (bend < 0) & (top > x0) & (top < x2)
    return Step(jnp.where(inside, top, rates[best]),
                jnp.where(inside, y0 + (top - x0) * (left + bend * (top - x1)), gains[best]))
