"""A fit as numbers: what is minimised over free coordinates, and what a solver needs to know of a point."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale import powers
from jaxscale.laws.base import from_unconstrained
from jaxscale.objectives import huber_slope, huber_value, side_weight
from jaxscale.terms import scaling_constants, term_shares


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Whitening:
    """What makes the correlated residuals of each run independent: a matrix a run, of its rows."""

    places: np.ndarray  # [runs, m], where a run's rows stand in the table; n where it has fewer
    factors: np.ndarray  # [runs, m, m], zero there

    def __call__(self, residuals):
        """Residuals [n], zero for rows of no run."""
        own = residuals.at[self.places].get(mode="fill", fill_value=0.0)
        white = jnp.einsum("gij,gj->gi", self.factors, own)
        return jnp.zeros_like(residuals).at[self.places].set(white, mode="drop")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """All that fits of one law to one table share.

    The free coordinates u [q] are the unconstrained constants left by fix= and tie=, theta = offset + select @ u, but
    for the `centred` ones. Each of those scales a term of the law, and its coordinate is the log of that term's share
    of the output at the centre of the data: ln A - alpha ln(N there), say, in place of ln A, which alpha moves with.
    """

    inputs: tuple  # arrays [n]
    target: jax.Array  # [n]: log of the observed output, or the output itself
    select: jax.Array  # [p, q], zeros and ones
    offset: jax.Array  # [p]
    lower: jax.Array  # [q]
    upper: jax.Array  # [q]
    scale: jax.Array
    delta: jax.Array
    overestimate: jax.Array
    prior_mean: jax.Array  # [q]
    prior_precision: jax.Array  # [q], in units of the objective; 0 where there is no prior
    centre: tuple  # the inputs [1] at the centre of the data, and the output there [1]
    power_sum: powers.PowerSum | None  # where the law is a sum of powers: its derivatives are then closed forms
    Law: type = dataclasses.field(metadata={"static": True})
    centred: tuple = dataclasses.field(metadata={"static": True})
    log: bool = dataclasses.field(metadata={"static": True})
    whitening: Whitening | None = None  # of residuals that are correlated along runs

    def repeated(self, count):
        """The table `count` times, on a leading axis of its data."""
        data = {name: getattr(self, name) for name in ("inputs", "target", "centre", "power_sum")}
        return dataclasses.replace(self, **jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))), data))

    def theta(self, u):
        """The unconstrained constants [p] at free coordinates u [q]."""
        theta = self.offset + self.select @ u
        if not self.centred:
            return theta
        at, share, power = self.places(self.centred), *self._centre(theta)
        return theta.at[at].set((theta[at] - share) / power)

    def free(self, theta):
        """The free coordinates u [q] of unconstrained constants theta [p]; of tied ones that differ, the mean."""
        if self.centred:
            at, share, power = self.places(self.centred), *self._centre(theta)
            theta = theta.at[at].set(power * theta[at] + share)
        return jnp.nan_to_num(theta, neginf=0.0) @ (self.select / jnp.sum(self.select, axis=0))

    def places(self, names):
        """Where constants stand in theta."""
        return np.array([list(self.Law.constants).index(name) for name in names], int)

    def others(self):
        """Where the constants that scale no term stand in theta, and which of them are positive."""
        scaling = scaling_constants(self.Law, frozenset())
        names = [name for name in self.Law.constants if name not in scaling]
        return self.places(names), np.array([self.Law.constants[name].positive for name in names], bool)

    def _centre(self, theta):
        """Logs of the shares that the centred constants' terms have at value 1, and the powers that they enter with."""
        if self.power_sum is not None:
            known, (other, positive) = self.power_sum, self.others()
            nu = jnp.where(positive, jnp.exp(theta[other]), theta[other])
            return known.share + known.share_slope @ nu, known.power + known.power_slope @ nu
        return term_shares(self.Law, self.centred, self.centre, theta)[1:]

    def residuals(self, u):
        return self.residuals_of(self.theta(u))

    def residuals_of(self, theta):
        predicted = from_unconstrained(self.Law, theta)(*self.inputs)
        predicted = jnp.broadcast_to(predicted, self.target.shape)
        residuals = jnp.log(predicted) - self.target if self.log else predicted - self.target
        return residuals if self.whitening is None else self.whitening(residuals)

    def value(self, u, weights):
        r = self.residuals(u)
        fit = self.scale * jnp.sum(weights * side_weight(r, self.overestimate) * huber_value(r, self.delta))
        return fit + 0.5 * jnp.sum(self.prior_precision * (u - self.prior_mean) ** 2)


class Sweep(NamedTuple):
    """What a solver needs to know of a point u."""

    value: jax.Array
    gradient: jax.Array  # [q]
    curvature: jax.Array  # [q, q]


def sweep(problem, u, weights, exact):
    """Value, gradient and curvature at u: the Hessian if `exact`, else the Gauss-Newton matrix.

    The latter is positive semi-definite: rows outside a robust objective's corner are reweighted.
    """
    known = problem.power_sum
    closed = known is not None and known.products is not None and problem.whitening is None
    of = _in_closed_form if closed else _by_differentiation
    fitted, prior, off = of(problem, u, weights, exact), jnp.diag(problem.prior_precision), u - problem.prior_mean
    return Sweep(fitted.value + 0.5 * off @ prior @ off, fitted.gradient + prior @ off, fitted.curvature + prior)


def _in_closed_form(problem, u, weights, exact):
    """Of a sum of powers: see `powers`."""
    plain = problem.offset + problem.select @ u
    at, (other, positive) = problem.places(problem.centred), problem.others()
    nu = jnp.where(positive, jnp.exp(plain[other]), plain[other])
    value, gradient, curvature = powers.sweep(
        problem.power_sum, plain[at], nu, jnp.log(problem.centre[1][0]), problem.target, weights, problem.log,
        problem.scale, problem.delta, problem.overestimate, exact)
    select = problem.select[other]
    chain = jnp.concatenate([problem.select[at], jnp.where(positive, nu, 1.0)[:, None] * select])  # [m, q]
    curl = jnp.where(exact & positive, gradient[len(at):] * nu, 0.0)
    return Sweep(value, gradient @ chain, chain.T @ curvature @ chain + (select * curl[:, None]).T @ select)


def _by_differentiation(problem, u, weights, exact):
    """Of any law. The slopes are taken forward, for q is small and n is not; what the Hessian has besides them forward
    over reverse, one column after the other: n numbers at a time stay in the cache, q^2 n would not."""
    r, jacobian, side = _slopes(problem, u, weights)
    pull = side * huber_slope(r, problem.delta)

    def curl():
        bend = jax.grad(lambda u: pull @ problem.residuals(u))
        return jax.lax.map(lambda e: jax.jvp(bend, (u,), (e,))[1], jnp.eye(len(u)))

    inside = jnp.where(jnp.abs(r) <= problem.delta, side, 0.0)
    bend = jnp.where(exact, inside, side * jnp.minimum(1.0, problem.delta / jnp.abs(r)))
    curvature = (jacobian * bend) @ jacobian.T
    curvature += jax.lax.cond(exact, curl, lambda: jnp.zeros_like(curvature))
    return Sweep(jnp.sum(side * huber_value(r, problem.delta)), jacobian @ pull, curvature)


def _slopes(problem, u, weights):
    """Residuals [n], their slopes [q, n], and the rows' weights in the sum."""
    r, jacobian = jax.vmap(lambda e: jax.jvp(problem.residuals, (u,), (e,)), out_axes=(None, 0))(jnp.eye(len(u)))
    return r, jacobian, problem.scale * weights * side_weight(r, problem.overestimate)


def gradient(problem, u, weights):
    """The gradient [q] at u, to be differentiated once more, with respect to anything."""
    r, jacobian, side = _slopes(problem, u, weights)
    return jacobian @ (side * huber_slope(r, problem.delta)) + problem.prior_precision * (u - problem.prior_mean)


class Look(NamedTuple):
    """What a certificate needs to know of a point u."""

    value: jax.Array
    gradient: jax.Array  # [q]
    gauss_newton: jax.Array  # [q, q]
    hessian: jax.Array  # [q, q]


@jax.jit
def look(problem, u, weights):
    """Both curvatures at u."""
    both = jax.vmap(sweep, in_axes=(None, None, None, 0))(problem, u, weights, jnp.array([False, True]))
    return Look(both.value[0], both.gradient[0], *both.curvature)


free_of = jax.jit(jax.vmap(Problem.free, in_axes=(None, 0)))
thetas_of = jax.jit(jax.vmap(Problem.theta, in_axes=(None, 0)))


class Rows(NamedTuple):
    """What the standard errors need to know of a point u."""

    residuals: jax.Array  # [n]
    jacobian: jax.Array  # [n, q]
    theta: jax.Array  # [p], the unconstrained constants
    slope: jax.Array  # [p, q], theta's in u


@jax.jit
def rows(problem, u):
    """Residuals and unconstrained constants at u, with their slopes."""
    theta, slope = problem.theta(u), jax.jacfwd(problem.theta)(u)
    r, jacobian = jax.vmap(lambda e: jax.jvp(problem.residuals_of, (theta,), (e,)), out_axes=(None, 1))(
        jnp.eye(len(theta)))
    # A constant held at 0 has no slope; without the mask its infinite log would make 0 * inf here.
    return Rows(r, jnp.where(problem.select.any(axis=1), jacobian, 0.0) @ slope, theta, slope)
