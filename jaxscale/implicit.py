"""Gradients through fits: the fitted law as a differentiable function of the table and the priors.

A fit ends where the gradient g(u; w) of its objective vanishes, u the free coordinates and w what was given: rows'
weights, outputs, inputs, priors. As g stays zero when w moves,

    du = -H^-1 (dg/dw) dw,    H = dg/du the exact Hessian

(the implicit function theorem; Cook & Weisberg 1982 and Koh & Liang 2017 for row weights): one linear solve, however
many steps the fit took. Coordinates at a bound stay there.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.certificate import CONVERGED
from jaxscale.errors import InputError, nearest
from jaxscale.laws.base import from_unconstrained
from jaxscale.minimise import begin, put, rounding_floor, step
from jaxscale.problem import gradient, sweep
from jaxscale.solver import damped_newton

STEPS = 1000  # of a refit at most, from the fit's own optimum


def refit(fit, *, weights=None, prior=None, **columns):
    """The law that the question of `fit` gives for other weights, columns or priors, as a pure differentiable function.

    `jit`, `vmap`, `grad` and `jvp` go through it, also twice; derivatives are those of the optimum. What is left out is
    the fit's own, so `refit(fit)` is `fit.law`. The optimum next to the fit's is found by at most 1000 damped Newton
    steps, without a global search, in the caller's dtype; where they do not converge, the law is NaN.

    Args:
      fit: a converged `Fit` with its table, by squares or Huber's function. n are the rows of `fit.task.runs`, which
        lists those that were used, in the table's order.
      weights: [n], in place of the rows' weights altogether, the table's own `fit.task.row_weights` included.
      prior: {"alpha": (0.34, 0.05)} for constants that had a prior in the fit. The noise phi that priors are weighed
        against is held at the fit's, whatever is passed.
      columns: the law's output or inputs [n] by name, as in loss=.

    Returns:
      The law, its constants JAX arrays. Those held keep their value; those at a bound have no derivative.

    Raises:
      InputError: a fit without its table, not converged, or of absolute deviations; an unknown name, a wrong length.

    Example:
      >>> import numpy as np, jaxscale as jsc
      >>> runs = jsc.Runs.from_columns({"x": np.ones(4), "loss": [3.2, 2.8, 3.0, 3.4]})
      >>> fit = jsc.fit(jsc.laws.PowerLaw, runs, fix={"x_c": 1.0, "alpha": 1.0}, free=("E",), errors=None,
      ...               objective=jsc.squares(log=False))  # 1 + E is the mean
      >>> jax.grad(lambda loss: refit(fit, loss=loss)(2.0))(runs.columns["loss"]).round(3).tolist()
      [0.25, 0.25, 0.25, 0.25]
    """
    _check(fit)
    task, problem = fit.task, jax.tree.map(_of_callers_dtype, fit.task.problem())
    columns = {task.names.get(name, name): column for name, column in columns.items()}
    known = (task.Law.output, *task.names.values())
    for name in columns:
        if name not in known:
            raise InputError(f"refit takes weights=, prior= and the columns {', '.join(known)} of this fit, not "
                             f"{name!r}{nearest(name, known) or ': leave it out.'}")
    prior = {name: jnp.asarray(pair, float) for name, pair in (prior or {}).items()}
    for name, pair in prior.items():
        if name not in task.prior:
            raise InputError(f"prior= changes the priors of the fit, on {', '.join(task.prior) or 'no constant'}, not "
                             f"on {name!r}: give the fit a prior on it first.")
        if pair.shape != (2,):
            raise InputError(f"prior= must give (mean, sd) for {name}, not an array of shape {pair.shape}.")
    columns = {name: _rows(task, name, column) for name, column in columns.items()}
    own = {"weights": _of_callers_dtype(task.weights)}
    if weights is not None:
        own["weights"] = jnp.where(jnp.arange(len(task.weights)) < len(task.runs), _rows(task, "weights", weights), 0)
    if task.Law.output in columns:
        observed = columns.pop(task.Law.output)
        own["target"] = jnp.log(observed) if problem.log else observed
    if columns:
        own["inputs"] = tuple(columns.get(task.names[name], _of_callers_dtype(values))
                              for name, values in zip(task.Law.inputs, task.inputs, strict=True))
        own["power_sum"] = problem.power_sum and problem.power_sum.centre_only()
    if prior:
        own["prior_mean"], own["prior_precision"] = task.prior_terms(task.prior | prior, jnp)
    law = _law(problem, own, _of_callers_dtype(fit.point))
    return dataclasses.replace(law, **{name: jnp.asarray(value, float) for name, value in task.held.items()})


def influence(fit, quantity):
    """How much leaving out each run of a fit changes a quantity, to first order.

    Leaving out run g takes its rows' weights w_i to zero: -sum over i in g of w_i dq/dw_i (Cook & Weisberg 1982). A run
    that alone decides a constant moves it by more than that; `vmap` of `refit` over weights gives the whole change.

    Args:
      fit: as in `refit`.
      quantity: a function of a law -> a number, in JAX.

    Returns:
      NumPy float64 [runs], in the order in which runs first appear in `fit.task.runs` (their codes, `.run`).

    Raises:
      InputError: as `refit`.

    Example:
      >>> import numpy as np, jaxscale as jsc
      >>> runs = jsc.Runs.from_columns({"x": np.ones(4), "loss": [3.2, 2.8, 3.0, 3.4]})
      >>> fit = jsc.fit(jsc.laws.PowerLaw, runs, fix={"x_c": 1.0, "alpha": 1.0}, free=("E",), errors=None,
      ...               objective=jsc.squares(log=False))  # 1 + E is the mean, 3.1; without the last run 3.0
      >>> influence(fit, lambda law: law.E).round(3)
      array([-0.025,  0.075,  0.025, -0.075])
    """
    _check(fit)
    weights, run = fit.task.row_weights, fit.task.runs.run
    with jax.enable_x64(True):
        slope = jax.grad(lambda weights: quantity(refit(fit, weights=weights)))(jnp.asarray(weights))
        return -np.bincount(run, weights * np.asarray(slope))


def _check(fit):
    """Raise InputError for a fit that has no smooth optimum to follow."""
    if not hasattr(fit, "task"):
        raise InputError(f"refit wants a fit, as jaxscale.fit returns it, not {fit!r}: pass the fit itself.")
    if fit.task is None:
        raise InputError("refit needs the runs, and a fit read from a file has none: fit the table again.")
    if fit.task.objective.name == "lad":
        raise InputError("refit needs an objective with curvature, and absolute deviations have none: fit with "
                         "objective=huber(1e-3).")
    if not fit.converged:
        raise InputError("refit follows an optimum, and this fit did not converge: hold constants with fix=, or add "
                         "runs.")


def _of_callers_dtype(numbers):
    """NumPy's numbers in the precision of the caller.

    JAX 0.10 keeps what it has made of a float64 array inside a 32-bit trace, and gives it to 64-bit ones later.
    """
    return np.asarray(numbers, jax.dtypes.canonicalize_dtype(float))


def _rows(task, name, column):
    """A column [n] at the length of the task's. Raises InputError for another length."""
    if jnp.shape(column) != (len(task.runs),):
        raise InputError(f"{name}= must be one number for each of the {len(task.runs)} rows of fit.task.runs, not an "
                         f"array of shape {jnp.shape(column)}: jax.vmap takes many at once.")
    return jnp.pad(jnp.asarray(column, float), (0, len(task.weights) - len(task.runs)), mode="edge")


@jax.jit
def _law(problem, own, start):
    """The law at the optimum next to `start` [q]."""
    return from_unconstrained(problem.Law, put(problem, own)[0].theta(_optimum(problem, own, start)))


@jax.custom_jvp
def _optimum(problem, own, start):
    """The free coordinates [q] where the objective is least, NaN where none was reached.

    problem: what is the fit's; own: a dict of what is put in its place, as `minimise` takes it, which alone has
    derivatives.
    """
    optimizer, floor = damped_newton(), rounding_floor(problem, len(own["weights"]), start.dtype)

    def onwards(slot):
        return step(optimizer, True, problem, floor, STEPS, own, slot)

    known = jax.lax.while_loop(lambda slot: ~slot.out, onwards, begin(optimizer, start)).state
    # The solver stays where Newton's model promises little more; that last step doubles the digits.
    u = known.params
    whole, weights = put(problem, own)
    curvature = sweep(whole, u, weights, jnp.ones((), bool)).curvature
    last = -_solve(problem, u, curvature, known.gradient)
    at_optimum = -0.5 * known.gradient @ last <= CONVERGED * known.value + floor  # NaN is not
    return jnp.where(at_optimum, jnp.clip(u + last, problem.lower, problem.upper), jnp.nan)


@_optimum.defjvp
def _differentiate(primals, tangents):
    """du = -H^-1 dg."""
    problem, own, start = primals
    u = _optimum(problem, own, start)

    def slope(own, u):
        known, weights = put(problem, own)
        return gradient(known, u, weights)

    drift = jax.jvp(lambda own: slope(own, u), (own,), (tangents[1],))[1]
    return u, -_solve(problem, u, jax.jacfwd(slope, 1)(own, u), drift)


def _solve(problem, u, hessian, slope):
    """hessian^-1 slope [q] among the coordinates off their bounds, 0 for those at one."""
    inner = (u > problem.lower) & (u < problem.upper)
    factor = jax.scipy.linalg.cho_factor(jnp.where(inner[:, None] & inner, hessian, jnp.eye(len(u))))
    return jax.scipy.linalg.cho_solve(factor, jnp.where(inner, slope, 0.0))
