"""Many fits handed out to all local devices: CPU devices, GPUs or TPUs.

Each device has slots and a line of its own (`minimise`), and devices never wait for each other within a line. The host
hands over a few slots-full at a time, which bounds the memory and shows progress. Fits do not see each other, so what
comes out does not depend on the number of devices.
"""

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxscale.minimise import Line, advance, blank, blank_ends, extended, rounding_floor

LINE = 8  # fits handed over at once, a slot


def slots_for(rows, fits):
    """How many fits advance together: as many as keep their sweeps in the cache, a power of two up to 16."""
    return 1 << int(max(1, min(16, fits, 16384 // rows))).bit_length() - 1


def minimise(problem, optimizer, starts, own, of, *, second_order, max_steps, progress=None):
    """Run every fit to its end -> `Ends`.

    Args:
      problem: what all fits share.
      starts: free coordinates [fits, q].
      own: what is not shared, a dict of arrays [k, ...]: the rows' `weights`, and any fields of the problem.
      of: [fits], which of the k is each fit's.
      progress: called with the number of fits that have ended since the last call.
    """
    starts, of, optimizer = np.asarray(starts, np.float64), np.asarray(of), extended(optimizer)
    fits, free = starts.shape
    rows = own["weights"].shape[1]
    devices = tuple(jax.local_devices()[:fits])
    width = slots_for(rows, -(-fits // len(devices)))
    waiting = LINE * width
    floor = rounding_floor(problem, rows, np.float64)
    onwards, split = _on_each(devices, optimizer, second_order)
    leaves, kind = jax.tree.flatten(own)
    shapes = tuple((x.shape[1:], x.dtype) for x in leaves)
    queue = _blank(len(devices), split, optimizer, width, waiting, free, kind, shapes)
    if fits > len(devices) * waiting:
        problem = jax.device_put(problem)  # once, not for every line
    ends = blank_ends(fits, free)._replace(points=starts.copy())
    unbegun, left = np.arange(fits), fits
    while left:
        share = min(waiting, -(-len(unbegun) // len(devices)))
        lines = [unbegun[i * share:(i + 1) * share] for i in range(len(devices))]
        index = np.stack([np.concatenate([line, np.zeros(waiting - len(line), int)]) for line in lines])
        names = np.stack([np.concatenate([line, np.full(waiting - len(line), -1)]) for line in lines])
        line = Line(names, starts[index], jax.tree.map(lambda x: x[of[index]], own))  # noqa: B023
        queue = onwards(problem, floor, max_steps, line,
                        len(devices) * share >= len(unbegun), queue)
        following, ended, who = map(np.asarray, (queue.following, queue.ended, queue.who))
        found = [np.asarray(part) for part in queue.ends]
        for i, count in enumerate(ended):
            for whole, part in zip(ends, found, strict=True):
                whole[who[i, :count]] = part[i, :count]
        unbegun = np.concatenate([*(line[begun:] for line, begun in zip(lines, following, strict=True)),
                                  unbegun[len(devices) * share:]])
        left -= int(ended.sum())
        if progress and ended.any():
            progress(int(ended.sum()))
    return ends


@functools.lru_cache
def _blank(count, split, optimizer, width, waiting, free, kind, shapes):
    """`blank` on every device."""
    own = jax.tree.unflatten(kind, [np.empty((0, *shape), dtype) for shape, dtype in shapes])
    queue = blank(optimizer, width, waiting, free, own)
    return jax.device_put(jax.tree.map(lambda x: np.stack([x] * count), queue), split)


@functools.lru_cache
def _on_each(devices, optimizer, second_order):
    """`advance` on every device at once, and how the line and the queue lie there: with a leading axis of devices."""

    def one(problem, floor, max_steps, line, last, queue):
        line, queue = jax.tree.map(lambda x: x[0], (line, queue))
        queue = advance(optimizer, second_order, problem, floor, max_steps, line, last, queue)
        return jax.tree.map(lambda x: x[None], queue)

    mesh, whole, split = Mesh(np.array(devices), ("fits",)), PartitionSpec(), PartitionSpec("fits")
    return jax.jit(jax.shard_map(one, mesh=mesh, check_vma=False, out_specs=split,
                                 in_specs=(whole, whole, whole, split, whole, split))), NamedSharding(mesh, split)
