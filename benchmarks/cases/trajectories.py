"""(v) The six constants of L(N, S, B) fitted jointly to 10,000 points of trajectories, 1% noise, squares of logs."""

import functools

import internals
import numpy as np
import recovery
from measuring import Table
from peers import additive, implicit

import jaxscale as jsc
from cases.roots import NAMES
from jaxscale import laws
from jaxscale.uncertainty import resampled_counts

START = laws.published["kaplan2020-webtext2"]  # the one start that peers are given


def _constants(law):
    return np.stack([np.asarray(getattr(law, name)) for name in NAMES], axis=-1)


def tables(rows=None, draws=256, few=4, adam_steps=2000, alone=True, warm=3, say=None):
    """rows: of the simulated table, None for all; few: draws given to peers; alone: the solver without search too."""
    from peers import gradient

    runs = recovery.table(0, 0, recovery.LAWS["C4"])
    if rows:
        runs = runs.where(np.isin(np.arange(len(runs)), additive.some(np.arange(len(runs)), rows)))
    arrays = tuple(runs.columns[name] for name in ("N", "S", "B", "loss"))
    ones, start = np.ones(len(runs)), _constants(START)[None]
    one = Table(f"One fit, {len(runs):,} points", "Peers start from the constants of Kaplan et al. 2020; the points "
                "were made from those of Su et al. 2024.", say)

    def fit():
        return jsc.fit(laws.KaplanNSB, runs, objective=jsc.squares(), errors=None)

    one.add("jaxscale.fit, whole: its own search, 16 starts", lambda: _constants(fit().law)[None], warm=warm)
    found = fit()
    if alone:
        held = np.append(start, [[0.0]], axis=1)  # the floor E, which is not fitted
        one.add("jaxscale's solver, one start", lambda: internals.solve(found, held)[:, :6], warm=warm)
    by_differences = functools.partial(implicit.joint, exact=False)
    slow = functools.partial(by_differences, solve=implicit.bisection)
    for who, peer, times in (
            ("SciPy least_squares, NumPy Newton, exact Jacobian", implicit.joint, warm),
            ("SciPy least_squares, NumPy Newton, 2-point Jacobian", by_differences, warm),
            ("SciPy least_squares, NumPy bisection, 2-point Jacobian", slow, 1)):
        one.add(f"{who}, one start", lambda peer=peer: peer(*arrays, ones, start)[0], warm=times)
    for who, peer, steps in (("optimistix LevenbergMarquardt", gradient.joint_levenberg, 200),
                             ("optax.lbfgs", gradient.joint_lbfgs, 500),
                             (f"optax.adam, {adam_steps:,} steps", gradient.joint_adam, adam_steps)):
        one.add(f"{who}, implicit gradient, one start", lambda peer=peer, steps=steps: peer(*arrays, start, steps)[0],
                warm=1)
    one.judge(lambda row: implicit.squares_sum(row.measured.result, *arrays), np.min)
    return [one, *([_many(found, runs, arrays, draws, few, warm, say)] if draws else [])]


def _many(found, runs, arrays, draws, few, warm, say):
    weights = resampled_counts(int(runs.run.max()) + 1, draws, 0)[:, runs.run]
    many = Table(f"{draws} fits at once, {len(runs):,} points each", "Whole runs resampled, every fit from the optimum "
                 "of the table.", say)
    chosen, optimum = additive.some(np.arange(draws), few), _constants(found.law)

    def ours():
        drawn = found.bootstrap(draws, starts="warm")
        if drawn.failed:
            raise RuntimeError(f"{drawn.failed:.2%} of the draws were left out, and not said which")
        return _constants(drawn.law)

    many.add('jaxscale, bootstrap(starts="warm")', ours, items=np.arange(draws), warm=min(warm, 1))
    searched = functools.partial(jsc.fit, laws.KaplanNSB, runs, objective=jsc.squares(), errors=None, weights=weights)
    many.add("jaxscale, fit(weights=matrix), each its own search", lambda: _constants(searched().law),
             items=np.arange(draws), warm=0)
    many.add("SciPy least_squares, NumPy Newton, exact Jacobian", lambda: np.concatenate(
        [implicit.joint(*arrays, weights[i], [optimum])[0] for i in chosen]), times=draws / len(chosen), items=chosen,
        warm=1)
    many.judge(lambda row: np.array([implicit.squares_sum(each[None], *arrays, weights[i])[0] for each, i in
                                     zip(row.measured.result, row.items, strict=True)]), np.max)
    return many
