"""The default solver: a damped Newton method in the form of an optax gradient transformation.

It asks for the exact Hessian close to the optimum and, far from it, for the positive semi-definite Gauss-Newton matrix,
which reweights rows outside a robust objective's corner (Huber & Ronchetti 2009, section 7.8). The damping is
Levenberg's with Moré's scaling: the largest curvature seen so far of each constant, which keeps one whose influence
dies away from running off. As many steps as wanted run in one `lax.while_loop`, each one sweep over the rows; there
is no line search, so thousands of fits advance side by side under `vmap`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class NewtonState(NamedTuple):
    """The best point so far, what is known there, and how far the next step may go."""

    params: jax.Array  # [q]
    value: jax.Array
    gradient: jax.Array  # [q]
    curvature: jax.Array  # [q, q]
    exact: jax.Array  # whether that is the exact Hessian
    refused: jax.Array  # whether the exact Hessian at params was seen not to be positive definite
    wants_exact: jax.Array  # which curvature the next update is to be given
    scaling: jax.Array  # [q]
    damping: jax.Array
    predicted: jax.Array  # the decrease that the step just tried was to bring; 0 for another look at the same point
    done: jax.Array


@functools.cache  # one object, so that one trace serves every fit
def damped_newton(damping=1e-2, tolerance=1e-14):
    """An `optax.GradientTransformationExtraArgs` whose update needs the curvature and the bounds.

    `update(gradient, state, params, value=, curvature=, lower=, upper=, floor=)` returns the move from the point just
    evaluated to the next one to evaluate: back to the best point if that one was worse. `curvature` is the exact
    Hessian where `state.wants_exact`, else the Gauss-Newton matrix. It is done, and stays at the best point, when the
    decrease that Newton's model still promises is below `tolerance` of the value, plus `floor`, the value of rounding
    errors alone.
    """

    def init(params):
        q = params.shape[-1]
        number, no = jnp.zeros((), params.dtype), jnp.zeros((), bool)
        return NewtonState(params, number + jnp.inf, jnp.zeros_like(params), jnp.zeros((q, q), params.dtype), no, no,
                           no, jnp.zeros_like(params), number + damping, number, no)

    def update(gradient, state, params, *, value, curvature, lower, upper, floor, **_):
        better = (value <= state.value) & jnp.all(jnp.isfinite(gradient))  # NaN is never better
        tried = (state.value < jnp.inf) & (state.predicted != 0)
        gain = jnp.where(tried, (state.value - value) / state.predicted, 0.5)
        damping = state.damping * jnp.where(better, jnp.maximum(1 / 5, 1 - (2 * gain - 1) ** 3), 4.0)
        best, value, gradient, curvature, exact, refused = jax.tree.map(
            lambda new, old: jnp.where(better & ~state.done, new, old),
            (params, value, gradient, curvature, state.wants_exact, state.refused & (state.predicted == 0)),
            (state.params, state.value, state.gradient, state.curvature, state.exact, state.refused))
        scaling = jnp.maximum(state.scaling, jnp.diagonal(curvature))

        held = ((best <= lower) & (gradient > 0)) | ((best >= upper) & (gradient < 0))
        slope = jnp.where(held, 0.0, gradient)
        ridge = damping * jnp.diag(jnp.maximum(scaling, 1e-12 * jnp.max(scaling)))
        free = jnp.where(held[:, None] | held[None, :], jnp.eye(len(held)), curvature + ridge)
        whole = -_solve(free, slope)
        singular = ~jnp.all(jnp.isfinite(whole))
        decrement = -slope @ whole
        # A constant at its bound may have its gradient inwards and yet its step outwards: it waits, the others go on.
        step = jnp.where((best <= lower) & (whole < 0) | (best >= upper) & (whole > 0), 0.0, whole)
        room = jnp.where(step < 0, lower - best, jnp.where(step > 0, upper - best, 0.0)) / step
        step = step * jnp.minimum(1.0, jnp.min(jnp.where(step != 0, room, jnp.inf)))  # up to the first bound
        small = (-slope @ jnp.where(step != 0, whole, 0.0) * (1 + damping) <= tolerance * value + floor) & (damping < 1)

        # The same point once more, with the other curvature: the exact one is no help, or is to confirm the optimum.
        refused = refused | singular & exact
        retreat, confirm = singular & exact, small & ~exact & ~refused
        step = jnp.where(retreat | confirm, 0.0, step)
        predicted = jnp.where(retreat | confirm, 0.0, -(slope @ step + 0.5 * step @ curvature @ step))
        # The exact Hessian, which may cost more, is asked for where little is left to gain and the other misjudged it.
        near = (decrement < 1e-2 * value + floor) & (exact | tried & (jnp.abs(gain - 1) > 0.1))
        wants_exact = (confirm | near) & ~retreat & ~refused
        stuck = (damping > 1e8) | singular & ~exact
        done = state.done | (value < jnp.inf) & (small & (exact | refused) & ~retreat | stuck)
        new = NewtonState(best, value, gradient, curvature, exact, refused, wants_exact, scaling, damping, predicted,
                          done)
        return jnp.where(done, best, best + step) - params, new

    return optax.GradientTransformationExtraArgs(init, update)


def _solve(matrix, vector):
    """The solution of a small symmetric positive definite system by Cholesky's method; NaN for another."""
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), vector)
