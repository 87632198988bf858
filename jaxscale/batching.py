"""Many tables fitted side by side: tasks of one law and question, each with its own table.

Tables are filled up to one of a few lengths (`task`), those of one length are stacked, and their fits go through one
queue (`minimise`). What comes out is the same as of a loop of fits.
"""

import dataclasses

import jax
import numpy as np

from jaxscale.certificate import check_identifiable
from jaxscale.errors import FitError
from jaxscale.minimise import Ends, minimise
from jaxscale.problem import Rows, rows
from jaxscale.solver import damped_newton
from jaxscale.starts import find_power_starts

STARTS = 4  # of each table's global search that are followed to their ends
TABLES = 64  # stacked at once, so that one shape is compiled for each length; fewer of long tables
NUMBERS = 4_000_000  # in one stacked column, at most: bounds the memory

_rows = jax.jit(jax.vmap(rows))


def solve_each(tasks, progress=None):
    """`(Ends, Rows at the best end)` of each task, a FitError, or None where it must be fitted by itself.

    Sums of powers without a prior, minimised by the default solver, are fitted here.
    """
    found, alike = [None] * len(tasks), {}
    for i, task in enumerate(tasks):
        if task.optimizer is None and task.objective.name != "lad" and not task.prior:
            problem = task.problem()
            if problem.power_sum is not None:
                leaves, structure = jax.tree.flatten(problem)
                alike.setdefault((structure, tuple(np.shape(leaf) for leaf in leaves)), []).append(i)
    for (_, shapes), members in alike.items():
        most = int(np.clip(NUMBERS // max(map(np.prod, shapes)), 1, TABLES))
        for i in range(0, len(members), most):
            block = members[i:i + most]
            for place, result in zip(block, _solve([tasks[i] for i in block], most, progress), strict=True):
                found[place] = result
    return found


def _solve(tasks, places, progress):
    """Tasks whose problems have the same shapes, stacked in `places` places; the last one fills those left over."""
    filled = tasks + tasks[-1:] * (places - len(tasks))
    problems = [task.problem() for task in filled]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
    weights = np.stack([task.weights for task in filled])
    starts = find_power_starts(stacked, weights, tasks[0].held, STARTS)  # [tables, starts, q]
    known, results = _rows(stacked, starts[:, 0]), [None] * len(tasks)
    jacobians = np.asarray(known.jacobian)
    for i, task in enumerate(tasks):
        try:
            check_identifiable(task, jacobians[i])
        except FitError as error:
            results[i] = error
    able = np.array([i for i, result in enumerate(results) if result is None], int)
    if not len(able):
        return results
    fields = {field.name: getattr(stacked, field.name) for field in dataclasses.fields(stacked)
              if not field.metadata.get("static")}

    def own(fits):
        return jax.tree.map(lambda values: values[able[fits // STARTS]], fields | {"weights": weights})

    ends = minimise(problems[0], damped_newton(), starts[able].reshape(len(able) * STARTS, -1), own, second_order=True,
                    max_steps=tasks[0].patience, progress=progress and (lambda ended: progress(ended / STARTS)))
    ends = [part.reshape(len(able), STARTS, *part.shape[1:]) for part in ends]
    ends[1] = values = np.where(np.all(np.isfinite(ends[0]), axis=2), ends[1], np.inf)
    points = np.array(starts[:, 0])
    points[able] = ends[0][np.arange(len(able)), np.argmin(values, axis=1)]
    known = jax.tree.map(np.asarray, _rows(stacked, points))
    for place, i in enumerate(able):
        results[i] = (Ends(*(part[place] for part in ends)), Rows(*(part[i] for part in known)))
        if not np.any(np.isfinite(values[place])):
            results[i] = FitError(f"none of the {STARTS} starts of {tasks[i].Law.__name__} ended at a finite "
                                  "objective: check the units of the columns.")
    return results
