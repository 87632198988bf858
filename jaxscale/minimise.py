"""Many fits of one law side by side, each to its end.

A fit is a start and whatever is its own: row weights (resamples, hold-outs), a prior's mean, or a whole table (groups).
A fixed number of slots advance together, one optimiser step at a time; a fit that is done leaves its slot to the next
in line, inside the compiled loop, so that stragglers hold nobody up and nothing retraces. The host hands over the fits
a few slots-full at a time, which bounds the memory and shows progress.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxscale.problem import sweep
from jaxscale.solver import NewtonState

LINE = 4  # fits handed over at once, a slot
PATIENCE = 100  # optimiser steps between two looks of the host, at most


class Slot(NamedTuple):
    """One fit on its way."""

    u: jax.Array  # [q], the point to look at next
    state: tuple  # the optimiser's
    best: jax.Array  # [q]
    least: jax.Array  # the value at best
    done: jax.Array


class Ends(NamedTuple):
    """Where fits ended, NumPy arrays with an axis of fits; the last three are zero after an optimiser of optax."""

    points: np.ndarray  # [fits, q]
    values: np.ndarray
    done: np.ndarray  # False: the step limit came first, or there was no way on from the start
    gradients: np.ndarray  # [fits, q]
    gauss_newtons: np.ndarray  # [fits, q, q]
    hessians: np.ndarray  # [fits, q, q]


class Queue(NamedTuple):
    """The slots, whose fit is -1 where empty, and what ended since the host last looked."""

    slots: Slot  # each leaf [width, ...]
    own: dict  # what is each slot's own
    fit: jax.Array  # [width]
    taken: jax.Array  # [width], steps
    following: jax.Array  # the next in line
    ended: jax.Array  # how many
    who: jax.Array  # [ended], their fits, in the order in which they ended
    ends: Ends


def _begin(optimizer, start):
    return Slot(start, optimizer.init(start), start, jnp.full((), jnp.inf, start.dtype), jnp.zeros((), bool))


def _step(optimizer, second_order, shared, floor, own, slot):
    """One optimiser step of one slot."""
    weights, problem = own["weights"], dataclasses.replace(shared, **{k: v for k, v in own.items() if k != "weights"})
    u, state, best, least, _ = slot
    if second_order:
        s = sweep(problem, u, weights)
        value, gradient = s.value, s.gradient
        known = {"gauss_newton": s.gauss_newton, "hessian": s.hessian, "lower": problem.lower, "upper": problem.upper,
                 "floor": floor}
    else:
        value, gradient = jax.value_and_grad(problem.value)(u, weights)
        known = {}
    moves, state = optimizer.update(gradient, state, u, value=value, grad=gradient,
                                    value_fn=lambda u: problem.value(u, weights), **known)
    better = value < least
    best, least = jnp.where(better, u, best), jnp.where(better, value, least)
    u = jnp.clip(optax.apply_updates(u, moves), problem.lower, problem.upper)
    return Slot(u, state, best, least, getattr(state, "done", jnp.zeros((), bool)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _advance(optimizer, second_order, shared, floor, max_steps, line, last, queue):
    """Every slot onwards, until the line is empty (`last`: until all have ended) or the host should look.

    line: (fits [k], -1 at its end, starts [k, q], own [k, ...]).
    """
    fits, starts, own = line
    waiting = jnp.sum(fits >= 0)
    step = jax.vmap(functools.partial(_step, optimizer, second_order, shared, floor))

    def settle(queue, out):
        """Write down those that are out, and fill their slots and the empty ones from the line."""
        slots, place = queue.slots, jnp.where(out, queue.ended + jnp.cumsum(out) - 1, len(queue.who))
        told = (slots.best, slots.least, slots.done, *_known(slots.state))
        ends = Ends(*(whole.at[place].set(part, mode="drop") for whole, part in zip(queue.ends, told, strict=False)),
                    *queue.ends[len(told):])
        who = queue.who.at[place].set(queue.fit, mode="drop")
        free = out | (queue.fit < 0)
        index = queue.following + jnp.cumsum(free) - 1
        fresh = free & (index < waiting)
        index = jnp.minimum(index, len(fits) - 1)

        def renew(new, old):
            return jnp.where(fresh.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        begun = jax.vmap(functools.partial(_begin, optimizer))(starts[index])
        return Queue(jax.tree.map(renew, begun, slots),
                     jax.tree.map(lambda new, old: renew(new[index], old), own, queue.own),
                     jnp.where(free, jnp.where(fresh, fits[index], -1), queue.fit), jnp.where(fresh, 0, queue.taken),
                     queue.following + jnp.sum(fresh), queue.ended + jnp.sum(out), who, ends)

    def onwards(counted):
        count, queue = counted
        slots, taken = step(queue.own, queue.slots), queue.taken + 1
        lost = jnp.isinf(slots.state.value) if isinstance(slots.state, NewtonState) else False  # no way to set out
        out = (queue.fit >= 0) & (slots.done | lost | (taken >= max_steps))
        queue = queue._replace(slots=slots, taken=taken)
        return count + 1, jax.lax.cond(jnp.any(out), settle, lambda queue, _: queue, queue, out)

    def more(counted):
        count, queue = counted
        return jnp.any(queue.fit >= 0) & (last | (queue.following < waiting)) & (count < PATIENCE)

    queue = settle(queue._replace(following=0, ended=0), jnp.zeros(len(queue.fit), bool))
    return jax.lax.while_loop(more, onwards, (0, queue))[1]


def _known(state):
    """What the default solver knows of its best point; nothing of another optimiser's."""
    return (state.gradient, state.gauss_newton, state.hessian) if isinstance(state, NewtonState) else ()


_extended = functools.lru_cache(optax.with_extra_args_support)  # one object for one optimiser: one trace


def takes_curvature(optimizer):
    """Whether an optimiser's update needs what the default solver's does: a chain that holds that one, say."""
    optimizer, u = _extended(optimizer), jnp.zeros(1)
    try:
        jax.eval_shape(lambda u: optimizer.update(u, optimizer.init(u), u, value=u[0], grad=u, value_fn=jnp.sum), u)
    except TypeError:
        return True
    return False


def slots_for(rows, fits):
    """How many fits advance together: as many as keep their sweeps in the cache, a power of two up to 16."""
    return 1 << int(max(1, min(16, fits, 65536 // rows))).bit_length() - 1


def minimise(problem, optimizer, starts, own, *, second_order, max_steps, progress=None):
    """Run every fit to its end.

    Args:
      problem: what all fits share.
      starts: free coordinates [fits, q].
      own: a function of indices [k] of fits -> a dict of what is each one's own, arrays [k, ...]: the rows' `weights`,
        and any fields of the problem.
      progress: called with the number of fits that have ended since the last call.

    Returns:
      `Ends`, one of each a fit.
    """
    problem, optimizer = jax.tree.map(jnp.asarray, problem), _extended(optimizer)
    starts = np.asarray(starts, np.float64)
    fits, free = starts.shape
    rows = own(np.zeros(1, int))["weights"].shape[1]
    width = slots_for(rows, fits)
    floor = 0.5 * problem.scale * rows * (8 * np.finfo(np.float64).eps) ** 2
    ends = Ends(starts.copy(), np.full(fits, np.inf), np.zeros(fits, bool), np.zeros((fits, free)),
                *np.zeros((2, fits, free, free)))
    queue, handed, inside = None, 0, 0
    while handed < fits or inside:
        line = np.arange(handed, min(handed + LINE * width, fits))
        index = np.minimum(np.arange(handed, handed + LINE * width), fits - 1)
        theirs = own(index)
        queue = _blank(optimizer, width, free, theirs) if queue is None else queue
        queue = _advance(optimizer, second_order, problem, floor, max_steps,
                         (np.where(np.arange(LINE * width) < len(line), index, -1), starts[index], theirs),
                         handed + len(line) == fits, queue)
        ended, following = int(queue.ended), int(queue.following)
        who = np.asarray(queue.who)[:ended]
        for whole, part in zip(ends, queue.ends, strict=True):
            whole[who] = np.asarray(part)[:ended]
        handed, inside = handed + following, inside + following - ended
        if progress and ended:
            progress(ended)
    return ends


@functools.lru_cache
def _slots(optimizer, width, free):
    """Shapes of the slots."""
    return jax.eval_shape(jax.vmap(functools.partial(_begin, optimizer)), np.zeros((width, free)))


def _blank(optimizer, width, free, own):
    """A queue with nothing in it."""
    places, slots = (LINE + 1) * width, _slots(optimizer, width, free)
    ends = Ends(np.zeros((places, free)), np.zeros(places), np.zeros(places, bool), np.zeros((places, free)),
                *np.zeros((2, places, free, free)))
    return Queue(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), slots),
                 jax.tree.map(lambda x: np.zeros((width, *x.shape[1:]), x.dtype), own), np.full(width, -1),
                 np.zeros(width, int), np.zeros((), int), np.zeros((), int), np.zeros(places, int), ends)
