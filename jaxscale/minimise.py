"""Many fits of one law side by side on one device, each to its end.

A fit is a start and whatever is its own: row weights (resamples, hold-outs), a prior's mean, or a whole table (groups).
A fixed number of slots advance together, one optimiser step at a time; fits that are done leave their slots to those
next in line, inside the compiled loop, so that stragglers hold nobody up and nothing retraces. `batching` hands out the
line.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxscale.problem import sweep

PATIENCE = 200  # optimiser steps between two looks of the host, at most


class Slot(NamedTuple):
    """One fit on its way."""

    u: jax.Array  # [q], the point to look at next
    state: tuple  # the optimiser's
    best: jax.Array  # [q]
    least: jax.Array  # the value at best
    taken: jax.Array  # steps
    done: jax.Array  # the optimiser says so
    out: jax.Array  # done, or out of steps, or with no way on from the start


class Line(NamedTuple):
    """The fits that wait."""

    fits: jax.Array  # [k], -1 at the line's end
    starts: jax.Array  # [k, q]
    own: dict  # arrays [k, ...]


class Ends(NamedTuple):
    """Where fits ended, with an axis of fits."""

    points: np.ndarray  # [fits, q]
    values: np.ndarray
    done: np.ndarray  # False: the step limit came first, or there was no way on from the start
    gradients: np.ndarray  # [fits, q]; with the next, zero after an optimiser of optax
    curvatures: np.ndarray  # [fits, q, q]
    exact: np.ndarray  # whether the curvature is the Hessian


class Queue(NamedTuple):
    """The slots, whose fit is -1 where empty, and what ended since the host last looked."""

    slots: Slot  # each leaf [width, ...]
    own: dict  # what is each slot's own
    fit: jax.Array  # [width]
    following: jax.Array  # the next in line
    ended: jax.Array  # how many
    who: jax.Array  # [ended], their fits, in the order in which they ended
    ends: Ends


def begin(optimizer, start):
    """The slot of a fit that sets out from `start` [q]."""
    no = jnp.zeros((), bool)
    return Slot(start, optimizer.init(start), start, jnp.full((), jnp.inf, start.dtype), jnp.zeros((), int), no, no)


def put(shared, own):
    """One fit's problem and row weights: what is its own in place of what all share."""
    return dataclasses.replace(shared, **{name: x for name, x in own.items() if name != "weights"}), own["weights"]


def rounding_floor(problem, rows, dtype):
    """The objective that rounding errors alone leave: some ulps of each row's log."""
    return 0.5 * problem.scale * rows * (8 * np.finfo(dtype).eps) ** 2


def step(optimizer, second_order, shared, floor, max_steps, own, slot):
    """One optimiser step of one slot; one that is out stays as it is."""
    problem, weights = put(shared, own)
    u, state = slot.u, slot.state
    if second_order:
        exact = optax.tree_utils.tree_get(state, "wants_exact")
        value, gradient, curvature = sweep(problem, u, weights, exact)
        known = {"curvature": curvature, "lower": problem.lower, "upper": problem.upper, "floor": floor}
    else:
        value, gradient = jax.value_and_grad(problem.value)(u, weights)
        known = {}
    moves, state = optimizer.update(gradient, state, u, value=value, grad=gradient,
                                    value_fn=lambda u: problem.value(u, weights), **known)
    better = value < slot.least
    best, least = jnp.where(better, u, slot.best), jnp.where(better, value, slot.least)
    u = jnp.clip(optax.apply_updates(u, moves), problem.lower, problem.upper)
    done = jnp.asarray(optax.tree_utils.tree_get(state, "done", False)) if second_order else jnp.zeros((), bool)
    lost = second_order & jnp.isinf(least)  # no way to set out
    taken = slot.taken + 1
    new = Slot(u, state, best, least, taken, done, done | lost | (taken >= max_steps))
    return jax.tree.map(lambda new, old: jnp.where(slot.out, old, new), new, slot)


def advance(optimizer, second_order, shared, floor, max_steps, line, last, queue):
    """Every slot onwards, until the line is empty (`last`: until all have ended) or the host should look."""
    width, waiting = len(queue.fit), jnp.sum(line.fits >= 0)
    one = functools.partial(step, optimizer, second_order, shared, floor, max_steps)

    def onward(own, slots):
        if width > 1:
            return jax.vmap(one)(own, slots)
        # One slot without vmap, under which both branches of a cond are taken: the Hessian is spared where not wanted.
        return jax.tree.map(lambda x: x[None], one(*jax.tree.map(lambda x: x[0], (own, slots))))

    def settle(queue):
        """Write down those that are out, and fill their slots and the empty ones from the line."""
        slots, out = queue.slots, queue.slots.out & (queue.fit >= 0)
        place = jnp.where(out, queue.ended + jnp.cumsum(out) - 1, len(queue.who))
        ends = Ends(*(whole.at[place].set(part, mode="drop") for whole, part in
                      zip(queue.ends, (slots.best, slots.least, slots.done, *_known(slots)), strict=True)))
        who = queue.who.at[place].set(queue.fit, mode="drop")
        free = out | (queue.fit < 0)
        index = queue.following + jnp.cumsum(free) - 1
        fresh = free & (index < waiting)
        index = jnp.minimum(index, len(line.fits) - 1)

        def renew(new, old):
            return jnp.where(fresh.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        begun = jax.vmap(functools.partial(begin, optimizer))(line.starts[index])
        return Queue(jax.tree.map(renew, begun, slots),
                     jax.tree.map(lambda new, old: renew(new[index], old), line.own, queue.own),
                     jnp.where(free, jnp.where(fresh, line.fits[index], -1), queue.fit),
                     queue.following + jnp.sum(fresh), queue.ended + jnp.sum(out), who, ends)

    def onwards(counted):
        count, queue = counted
        out, empty = (queue.fit >= 0) & queue.slots.out, queue.fit < 0
        # Settling copies what the slots own, so a quarter of them wait for each other.
        idle = out | empty & (queue.following < waiting)
        enough = (jnp.sum(idle) * 4 >= width) | jnp.all(out | empty)
        queue = jax.lax.cond(enough, settle, lambda queue: queue, queue)
        return count + 1, queue._replace(slots=onward(queue.own, queue.slots))

    def more(counted):
        count, queue = counted
        waits = queue.following < waiting
        return (waits | last & jnp.any(queue.fit >= 0)) & (count < PATIENCE)

    queue = queue._replace(following=jnp.zeros((), int), ended=jnp.zeros((), int))
    return jax.lax.while_loop(more, onwards, (0, queue))[1]


def _known(slots):
    """Gradient, curvature and its kind at the best points, where the default solver has them."""
    found = [optax.tree_utils.tree_get(slots.state, name) for name in ("gradient", "curvature", "exact")]
    blank = jnp.zeros_like(slots.best), jnp.zeros((*slots.best.shape, slots.best.shape[1])), jnp.zeros_like(slots.done)
    return blank if found[2] is None else found


@functools.lru_cache
def _slots(optimizer, width, free):
    """Shapes of the slots."""
    return jax.eval_shape(jax.vmap(functools.partial(begin, optimizer)), np.zeros((width, free)))


def blank(optimizer, width, waiting, free, own):
    """A queue with nothing in it: `width` slots of fits of `free` coordinates, for lines of `waiting` fits."""
    places = width + waiting
    return Queue(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), _slots(optimizer, width, free)),
                 jax.tree.map(lambda x: np.zeros((width, *x.shape[1:]), x.dtype), own), np.full(width, -1),
                 np.zeros((), int), np.zeros((), int), np.zeros(places, int),
                 blank_ends(places, free))


def blank_ends(fits, free):
    """Of fits that have not begun."""
    return Ends(np.zeros((fits, free)), np.full(fits, np.inf), np.zeros(fits, bool), np.zeros((fits, free)),
                np.zeros((fits, free, free)), np.zeros(fits, bool))


extended = functools.lru_cache(optax.with_extra_args_support)  # one object for one optimiser: one trace


def takes_curvature(optimizer):
    """Whether an optimiser's update needs what the default solver's does: a chain that holds that one, say."""
    optimizer, u = extended(optimizer), jnp.zeros(1)
    try:
        jax.eval_shape(lambda u: optimizer.update(u, optimizer.init(u), u, value=u[0], grad=u, value_fn=jnp.sum), u)
    except TypeError:
        return True
    return False
