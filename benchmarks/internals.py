"""The one place where the benchmarks look inside jaxscale: the numerics of a fit without its front door."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.laws.base import from_unconstrained, to_unconstrained
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
    """A function that makes one sweep (value, gradient, both curvatures) at each of the constants [k, p]."""
    with jax.enable_x64(True):
        problem = jax.tree.map(jnp.asarray, fit.task.problem())
        points, weights = jnp.asarray(_points(fit, constants)), jnp.asarray(fit.task.weights)
    compiled = jax.jit(jax.vmap(sweep, in_axes=(None, 0, None)))

    def call():
        with jax.enable_x64(True):
            return jax.block_until_ready(compiled(problem, points, weights))

    return call


def iterations(fit, constants, most=300):
    """How many steps of the default solver each start takes [k]."""
    task, optimizer = fit.task, damped_newton()
    with jax.enable_x64(True):
        problem, weights = jax.tree.map(jnp.asarray, task.problem()), jnp.asarray(task.weights)
        floor = 0.5 * problem.scale * len(task.observed) * (8 * np.finfo(np.float64).eps) ** 2

        @jax.jit
        @functools.partial(jax.vmap, in_axes=(0, 0))
        def step(u, state):
            s = sweep(problem, u, weights)
            move, state = optimizer.update(s.gradient, state, u, value=s.value, gauss_newton=s.gauss_newton,
                                           hessian=s.hessian, lower=problem.lower, upper=problem.upper, floor=floor)
            return jnp.clip(u + move, problem.lower, problem.upper), state

        u = jnp.asarray(_points(fit, constants))
        state, taken = jax.vmap(optimizer.init)(u), np.zeros(len(u), int)
        while not np.all(state.done) and taken.max() < most:
            taken += ~np.asarray(state.done)
            u, state = step(u, state)
    return taken
