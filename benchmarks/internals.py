"""The one place where the benchmarks look inside jaxscale: the numerics of a fit without its front door."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.laws.base import from_unconstrained, to_unconstrained
from jaxscale.minimise import begin, rounding_floor, step
from jaxscale.problem import free_of, sweep, thetas_of
from jaxscale.solver import damped_newton

STARTS = 16  # of the search that a fit follows


def numerics(fit):
    """The constants [16, p] where the starts of a fit's own search end."""
    with jax.enable_x64(True):
        return _constants(fit.task, fit.task.solve(fit.task.starts(STARTS)).points)


def solve(fit, constants):
    """The constants [k, p] where starts [k, p] end under the default solver."""
    with jax.enable_x64(True), np.errstate(over="ignore"):  # of starts whose terms die away
        return _constants(fit.task, fit.task.solve(_points(fit, constants)).points)


def _points(fit, constants):
    theta = np.asarray(to_unconstrained(fit.task.Law(*np.asarray(constants, np.float64).T)))
    return np.asarray(free_of(fit.task.problem(), theta))


def _constants(task, points):
    law = from_unconstrained(task.Law, np.asarray(thetas_of(task.problem(), points)))
    return np.stack([np.asarray(getattr(law, name)) for name in task.Law.constants], axis=1)


def sweeps(fit, constants):
    """A function that makes one sweep (value, gradient, the exact curvature) at each of the constants [k, p]."""
    with jax.enable_x64(True):
        problem = jax.tree.map(jnp.asarray, fit.task.problem())
        points, weights = jnp.asarray(_points(fit, constants)), jnp.asarray(fit.task.weights)
    compiled = jax.jit(lambda problem, points, weights: jax.lax.map(
        lambda point: sweep(problem, point, weights, True), points, batch_size=16))

    def call():
        with jax.enable_x64(True):
            return jax.block_until_ready(compiled(problem, points, weights))

    return call


def iterations(fit, constants):
    """How many sweeps the default solver makes from each start [k]."""
    task = fit.task
    with jax.enable_x64(True):
        problem, own = jax.tree.map(jnp.asarray, (task.problem(), {"weights": task.weights}))
        floor, most = rounding_floor(problem, len(task.weights), np.float64), task.patience
        onwards = functools.partial(step, damped_newton(), True, problem, floor, most, own)

        @jax.jit
        def taken(start):
            return jax.lax.while_loop(lambda slot: ~slot.out, onwards, begin(damped_newton(), start)).taken

        return np.asarray(jax.lax.map(taken, jnp.asarray(_points(fit, constants)), batch_size=16))
