"""The numerics of a plan: one law, one aim, no checks.

The aim is a compute or, inverse, a loss: the two then swap roles. Throughout x = ln N and `args` = law, aim, costs,
conditions.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.planning.conditions import AllDevices, at_loss, excesses, log_compute, log_tokens, sized
from jaxscale.roots import root

BUDGETS = (1e6, 1e35)  # FLOPs
POINTS, PASSES = 64, 10  # of the search in ln N: 63^10 > 2^53
BLOCK = 1024  # laws and budgets solved side by side
FORBIDDEN = 1e6  # added to ln compute where a limit is broken: above any


class Run(NamedTuple):
    compute: jax.Array
    N: jax.Array
    D: jax.Array
    S: jax.Array | None
    B: jax.Array | None
    loss: jax.Array


def run(x, args, inverse):
    """The run of N = exp(x) parameters that meets the aim, and goes no further than the limits."""
    return _run(x, args, inverse)[0]


def _run(x, args, inverse):
    """The run, ln of its compute, and how far it is beyond each limit: of a run to a loss, all but the budget."""
    law, aim, costs, conditions = args
    size = sized(x, costs, conditions)
    if conditions.by_policy:
        loss = aim if inverse else _least_loss(size, args)
        log_D, S, B = at_loss(law, size, loss, conditions)
    else:
        B = conditions.batch
        if inverse:
            ends = (jnp.full_like(x, end) for end in (-5.0, 85.0, 25.0))
            log_D = root(_above, *ends, (x, size, args))
        else:
            log_D = log_tokens(size, aim, conditions)
        loss, S = _loss(x, size, log_D, args), None if B is None else jnp.exp(log_D) / B
    total = log_compute(size, log_D)
    limits = excesses(size, log_D, S, B, conditions)
    if not inverse:
        limits.append(total - jnp.log(aim))
    spent = jnp.exp(total) if inverse or conditions.limited else aim
    return Run(spent, size.N, jnp.exp(log_D), S, B, loss), total, limits


def _loss(x, size, log_D, args):
    law, _, _, conditions = args
    N, D, B = size.N, jnp.exp(log_D), conditions.batch
    C, M = jnp.exp(size.training + log_D), jnp.exp(log_D - x)
    quantities = {"N": N, "D": D, "S": None if B is None else D / B, "B": B, "C": C, "M": M,
                  "unique_tokens": conditions.unique_tokens}
    return law(*(quantities[name] for name in law.inputs))


def _above(log_D, args):
    """log of the loss over the one wanted: falls as the tokens rise."""
    x, size, (_, wanted, *_) = args
    return jnp.log(_loss(x, size, log_D, args[-1]) / wanted)


def _least_loss(size, args):
    """The loss at which the first limit binds, or the first that half the digits can tell from minimum_loss."""
    law, budget, _, conditions = args
    least = law.minimum_loss(size.N)
    start = jax.lax.stop_gradient(jnp.log(least))
    ends = start + jnp.log(0.5 * _half_the_digits(least)), start + 30, start - 2
    told = jnp.log(_half_the_digits(least) * least)
    return least + jnp.exp(root(_tightest, *ends, (law, size, told, jnp.log(budget), conditions)))


def _tightest(y, args):
    """The largest excess of the run to a loss exp(y) above the minimum, or how far y is below what can be told.

    It falls as y rises.
    """
    law, size, told, log_budget, conditions = args
    log_D, S, B = at_loss(law, size, law.minimum_loss(size.N) + jnp.exp(y), conditions)
    spent = jnp.maximum(log_compute(size, log_D) - log_budget, told - y)
    return functools.reduce(jnp.maximum, excesses(size, log_D, S, B, conditions), spent)


def _half_the_digits(x):
    return 8 * jnp.sqrt(jnp.finfo(x.dtype).eps)


def price(x, args, inverse):
    """What is least at the optimum, inf where there is no such run, its slope in x, and the excesses of `_run`.

    Where a limit is broken the slope is that of the breach, so that a search finds its way back.
    """
    law, aim, costs, conditions = args

    def of(x):
        found, total, limits = _run(x, args, inverse)
        _, _, D, S, _, loss = found
        reached = (D < jnp.inf) & (loss <= (aim * (1 + 1e-6) if inverse else jnp.inf))
        real = reached & (D >= 1) & (True if S is None else S >= 1)
        if conditions.by_policy:
            real &= loss > law.minimum_loss(jnp.exp(x)) * (1 + 4 * _half_the_digits(loss))
        if inverse:
            value = jnp.log(S) if isinstance(conditions.batch, AllDevices) else total
            if limits:
                breach = functools.reduce(jnp.maximum, limits)
                value = jnp.where(breach > 0, FORBIDDEN * (1 + breach), value)
        else:
            value = loss
        return value, (reached, real, limits)

    value, slope, (reached, real, limits) = jax.jvp(of, (x,), (jnp.ones_like(x),), has_aux=True)
    slope = jnp.where(reached, slope, -1.0)  # out of reach: too small a model
    if conditions.inference_tokens is not None and not inverse:
        left = sized(x, costs, conditions).inference < jnp.log(aim)
        real, slope = real & left, jnp.where(left, slope, 1.0)
    if conditions.max_N is not None:
        slope = jnp.where(x < jnp.log(conditions.max_N), slope, 1.0)
    return jnp.where(real, value, jnp.inf), slope, limits


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def best(args, inverse):
    """ln N of the optimum; NaN where an end is better: one parameter, or one token or step.

    A grid is laid over ln N, then again between the two points where the slope turns, until these are neighbours. The
    slope brackets, as it is exact even where the value is flat to rounding, and it jumps where a limit takes over; the
    value chooses among several minima.
    """
    t = jnp.linspace(0.0, 1.0, POINTS)

    def narrow(count, ends):
        x = ends[0] * (1 - t) + ends[1] * t
        value, slope, _ = price(x, args, inverse)
        turns = (slope[:-1] < 0) & (slope[1:] >= 0)
        lower = jnp.minimum(value[:-1], value[1:])
        i = jnp.argmin(jnp.where(turns, lower, jnp.inf))
        least = lower[i] <= jnp.min(value) + 64 * jnp.finfo(value.dtype).eps * jnp.abs(lower[i])
        good = turns[i] & (lower[i] < jnp.inf) & (least | (count > 0))
        return jnp.where(good, x[i], ends[0]), jnp.where(good, x[i + 1], ends[1])

    low, high = jax.lax.fori_loop(0, PASSES, narrow, (jnp.zeros_like(args[1]), _widest(args, inverse)))
    found = jnp.where(high - low < _half_the_digits(low), 0.5 * (low + high), jnp.nan)
    limits = _run(found, args, True)[2] if inverse else []
    for excess in limits:  # a limit that binds is kept to rounding
        found = jnp.where(excess <= _half_the_digits(excess), found, jnp.nan)
    return found


def _widest(args, inverse):
    """ln of the largest N to look at."""
    _, aim, _, conditions = args
    widest = jnp.log(jnp.full_like(aim, BUDGETS[1]) if inverse else aim)
    return widest if conditions.max_N is None else jnp.minimum(widest, jnp.log(conditions.max_N))


def _condition(x, args, inverse):
    """Zero at the optimum: the slope, or, where two limits meet, how far the run is from the second.

    Of a run to a loss the first limit is that loss. Which of two is the first is left to rounding.
    """
    conditions = args[3]
    _, zero, limits = price(x, args, inverse)
    if len(limits) > (0 if inverse else 1):
        *_, second, first = jnp.sort(jnp.stack([jnp.zeros_like(x), *limits] if inverse else limits))
        zero = jnp.where(first - second < _half_the_digits(x), first - second, zero)
    if conditions.max_N is not None:
        end = x - jnp.log(conditions.max_N)
        zero = jnp.where(end > -_half_the_digits(x), end, zero)
    return zero


@best.defjvp
def _differentiate(inverse, primals, tangents):
    """What is zero at the optimum stays zero: the rule of `root`, its bracket closed on the optimum."""
    x = best(*primals, inverse)
    condition = functools.partial(_condition, inverse=inverse)
    return jax.jvp(lambda args: root(condition, x, x, x, args, True), primals, tangents)


def flat(x, args, inverse, level):
    """The runs at the two ends, around the optimum x, of the ln N whose price is up to `level`."""
    above = functools.partial(_beyond, inverse=inverse)
    lower, upper = jnp.stack([jnp.zeros_like(x), x]), jnp.stack([x, _widest(args, inverse)])
    found = run(root(above, lower, upper, lower, (args, level), True), args, inverse)
    found = jax.tree.map(lambda quantity: jnp.broadcast_to(quantity, (2,)), found)
    return tuple(jax.tree.map(lambda quantity, i=i: quantity[i], found) for i in range(2))


def _beyond(x, args, inverse):
    args, level = args
    return price(x, args, inverse)[0] - level


@functools.partial(jax.jit, static_argnames="inverse")
def solve(laws, aims, costs, conditions, inverse):
    """The best run, of one law, aim and conditions or of an axis of them."""

    def one(law, aim, conditions):
        args = law, aim, costs, conditions
        return run(best(args, inverse), args, inverse)

    return jax.vmap(one)(laws, aims, conditions) if jnp.ndim(aims) else one(laws, aims, conditions)


@functools.partial(jax.jit, static_argnames="inverse")
def solve_flat(laws, aims, costs, conditions, inverse):
    """The runs at both ends of a flat optimum; of aims (aim, ln N of the optimum, level)."""

    def one(law, aims, conditions):
        aim, x, level = aims
        return flat(x, (law, aim, costs, conditions), inverse, level)

    return jax.vmap(one)(laws, aims, conditions) if jnp.ndim(aims[0]) else one(laws, aims, conditions)


def in_blocks(solver, laws, aims, costs, conditions, inverse):
    """A solver in float64 along one axis, in blocks of one width: compiled once for many laws and budgets."""
    count = len(jax.tree.leaves(aims)[0])
    width = min(BLOCK, 1 << (count - 1).bit_length())
    shape = (-(-count // width), width) if count > 1 else (1,)
    blocks = jax.tree.map(lambda x: np.resize(x, shape), (laws, aims, conditions))
    with jax.enable_x64(True):
        parts = []
        for i in range(shape[0]):
            laws, aims, conditions = jax.tree.map(lambda x, i=i: x[i], blocks)
            parts.append(solver(laws, aims, costs, conditions, inverse))
        return jax.tree.map(lambda *xs: np.hstack(xs)[:count], *parts)
