"""What to hold, join or add, where a table does not tell what is wanted."""

import itertools
import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from jaxscale.designs.fisher import WEAK
from jaxscale.laws import published

ACTIONS = 3  # to fix or tie, or runs to add, at most
GUESS = 10.0  # standard error of each free constant before anything is known
SCALE_PRICE = 2.0  # in logs of errors, of holding what scales a term: other runs do not tell it
ALIKE = 2.0  # how many times one exponent may be another for the two to be tied


class Advice(NamedTuple):
    """What to hold, join or add, and what is then known."""

    sentence: str
    code: str  # what to type, after jsc.fit(Law, runs, ...); "" for runs to add
    option: str  # the same on the command line
    errors: dict  # name -> standard error of what was not identified


def advise(table, cover, constants, wanted, nearby):
    """What to hold, join or add, until all is identified; () where it is.

    nearby: logs of the law's output at the table's grid, and their slopes.
    """
    goals = []
    for i, (name, known) in enumerate(constants.items()):
        about = table.task.Law.constants[table.task.groups[i][0]]
        per = 1.0 if about.positive else abs(known.value) or 1e-300
        goals.append(Goal(name, np.eye(len(constants))[i] / per, WEAK[known.kind]))
    goals += [Goal(one.name, one.slope, WEAK[one.kind]) for one in wanted]
    weak = [goal for goal in goals if not cover.error(goal.slope) < goal.most]
    if not weak:
        return ()
    # Two runs may be needed where one alone settles nothing: with a guess of all constants it does a part.
    guessed = cover.with_row(np.eye(len(constants)) / GUESS)
    return tuple(filter(None, (_hold(table, cover, guessed, goals, weak),
                               _add(table, cover, guessed, goals, weak, *nearby))))


class Goal(NamedTuple):
    """Something to be known."""

    name: str
    slope: np.ndarray  # [q]
    most: float  # the error that would do


def _missing(cover, goals, moves=None):
    """How far the goals are from being met: the sum over them of the log of their errors over what would do.

    moves: [q, k], how the free constants go by the coordinates of `cover`; a goal that is settled by them is met.
    """
    moves = np.eye(len(goals[0].slope)) if moves is None else moves
    slopes = [(goal.slope @ moves, goal.most) for goal in goals if np.all(np.isfinite(goal.slope))]
    return sum(math.log(max(cover.error(slope) / most, 1.0)) for slope, most in slopes if np.any(np.abs(slope) > 0))


def _hold(table, cover, guessed, goals, weak):
    """The constants to fix and tie that tell most, one after the other."""
    groups, moves, fixed = list(table.task.groups), np.eye(len(table.names)), []
    left = _missing(guessed, goals)
    while left > 0 and len(groups) > 1 and len(fixed) < ACTIONS:
        ways = [*_fixings(table, groups, moves), *_ties(table, groups, moves)]
        scores = [price + _missing(guessed.joined(way), goals, way) for price, way, _, _ in ways]
        best = int(np.argmin(scores))
        if not scores[best] < left:
            break
        _, moves, groups, held = ways[best]
        fixed.append(held)
        left = _missing(guessed.joined(moves), goals, moves)
    if not fixed:
        return None
    names = [name for held in fixed for name in held]
    tied = tuple(group for group in groups if group not in table.task.groups)
    values = {name: float(f"{getattr(table.law, name):.3g}") for name in names}
    code = [f"fix={{{', '.join(f'{name!r}: {value:g}' for name, value in values.items())}}}"] if names else []
    code += [f"tie={tied!r}"] if tied else []
    option = [*(f"--fix {name}={value:g}" for name, value in values.items()),
              *(f"--tie {'='.join(group)}" for group in tied)]
    does = [f"hold {' and '.join(map(_published(table), names))} at what other runs say"] if names else []
    does += [f"let {' and '.join(group)} be one" for group in tied]
    return Advice(" and ".join(does), ", ".join(code), " ".join(option), _errors(cover.joined(moves), weak, moves))


def _fixings(table, groups, moves):
    """Each way to hold one more: its price, the moves and groups that are left, what is held."""
    for i, group in enumerate(groups):
        price = SCALE_PRICE if table.scaling & {*group} else 0.0
        yield price, np.delete(moves, i, axis=1), groups[:i] + groups[i + 1:], group


def _ties(table, groups, moves):
    """Each way to tie two exponents that are alike."""
    about = table.task.Law.constants
    for i, j in itertools.combinations(range(len(groups)), 2):
        values = [getattr(table.law, groups[k][0]) for k in (i, j)]
        if {*groups[i], *groups[j]} & (table.scaling | {"E"}) or not max(values) < ALIKE * min(values):
            continue
        if about[groups[i][0]].positive and about[groups[j][0]].positive:
            joined = np.delete(moves, j, axis=1)
            joined[:, i] += moves[:, j]
            rest = [*groups[:i], groups[i] + groups[j], *groups[i + 1:j], *groups[j + 1:]]
            yield 0.0, joined, rest, ()


def _published(table):
    """A constant's name with the range of its published values."""
    laws = [law for law in published.values() if type(law) is table.task.Law]

    def told(name):
        values = sorted({getattr(law, name) for law in laws} - {table.task.Law.constants[name].default})
        ends = f"{values[0]:g} to {values[-1]:g}" if len(values) > 1 else f"{values[0]:g}" if values else ""
        return f"{name} (published: {ends})" if ends else name

    return told


def _errors(cover, weak, moves):
    return {goal.name: cover.error(goal.slope @ moves) for goal in weak if np.any(np.abs(goal.slope @ moves) > 0)}


def _add(table, cover, guessed, goals, weak, logs, slopes):
    """The runs within the table's own ranges that would tell most, one after the other."""
    grid = table.grid
    if grid is None:
        return None
    slopes = slopes / table.scatter * (1.0 if table.task.objective.log else np.exp(logs)[:, None])
    able = np.all(np.isfinite(slopes), axis=1) & (table.spent(grid) <= (1 + 1e-9) * table.ray[2] if table.ray else True)
    left, chosen = _missing(guessed, goals), []
    while left > 0 and len(chosen) < ACTIONS:
        scores = [_missing(guessed.with_row(slope), goals) if fine else math.inf
                  for slope, fine in zip(slopes, able, strict=True)]
        best = int(np.argmin(scores))
        if not scores[best] < left:
            break
        left, guessed, cover = scores[best], guessed.with_row(slopes[best]), cover.with_row(slopes[best])
        chosen.append(best)
    if not chosen:
        return None
    names = table.task.names
    said = "; ".join((f"{count} times " if count > 1 else "") + ", ".join(
        f"{names[name]} = {x[i]:.2g}" for name, x in grid.items()) for i, count in Counter(chosen).items())
    return Advice(f"add {len(chosen)} run{'s' * (len(chosen) > 1)}: {said}", "", "",
                  _errors(cover, weak, np.eye(len(table.names))))
