"""How honest are intervals from few runs? Coverage over simulated tables, with and without corrections.

    python benchmarks/few_runs.py                  # writes benchmarks/few_runs.md
    python benchmarks/few_runs.py "final losses"   # writes benchmarks/few_final_losses.md

Tables of 6, 12 and 25 runs of Chinchilla's law (constants of Besiroglu et al. 2024): N from 1e7 to 1e9, the end of each
run's D between 5 and 80 tokens a parameter, log-uniform. "trajectories" have 16 rows a run, D over a factor of 30,
whose ln loss is off by an offset a run (0.5%), a drift along it (0.5%, of length 1 in ln D) and noise (0.1%); "final
losses" have the last row alone, of 12 and 25 runs, as 6 rows are hardly more than the 5 constants. Each table is
fitted by squares of log residuals, and 80% and 95% intervals are asked for E, alpha, beta, the loss of the law at ten
times the largest compute on 20 tokens a parameter, and the loss that a new run has there. Coverage is the share of
tables whose interval holds the truth.

The wild bootstrap is that of scores, studentised: t* = sum_g v_g z_g / sqrt(sum_g z*_g^2), v of Webb's six points (Webb
2023; MacKinnon, Nielsen & Webb 2023), z_g what run g moves the constant by, to first order.
"""

import math
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np

import jaxscale as jsc
from jaxscale import laws, uncertainty
from jaxscale.stacks import Stack

TRUE = laws.published["besiroglu2024"]
OFFSET, DRIFT, LENGTH, NOISE = 0.005, 0.005, 1.0, 0.001
ROWS = 16
TABLES = 200
SIZES = (6, 12, 25)
CONSTANTS = ("E", "alpha", "beta")
LEVELS = (0.8, 0.95)
WEBB = np.sqrt([0.5, 1.0, 1.5]) * np.array([[1], [-1]])


def truth(N, D):
    return TRUE.E + TRUE.A / N**TRUE.alpha + TRUE.B / D**TRUE.beta


def table(kind, runs, seed):
    """A simulated table, the point that is asked for, the law's loss there and a new run's."""
    rng = np.random.default_rng([runs, seed])
    N = np.exp(rng.permutation(np.linspace(*np.log([1e7, 1e9]), runs)))
    end = N * np.exp(rng.uniform(*np.log([5, 80]), runs))
    steps = np.geomspace(1 / 30, 1, ROWS)
    depth = np.log(steps)
    root = np.linalg.cholesky(OFFSET**2 + DRIFT**2 * np.exp(-np.abs(depth[:, None] - depth) / LENGTH)
                              + NOISE**2 * np.eye(ROWS))
    wander = rng.standard_normal((runs + 1, ROWS)) @ root.T
    used = slice(-1, None) if kind == "final losses" else slice(None)
    D = (end[:, None] * steps)[:, used]
    columns = {"N": np.repeat(N, D.shape[1]), "D": D.ravel()}
    columns["loss"] = truth(**columns) * np.exp(wander[:-1, used].ravel())
    compute = 10 * float((6 * N * end).max())
    at = {"N": math.sqrt(compute / 120), "D": 20 * math.sqrt(compute / 120)}
    ahead = float(truth(**at))
    return (jsc.Runs.from_columns(columns, run=np.repeat(np.arange(runs), D.shape[1])), at, ahead,
            ahead * math.exp(wander[-1, -1]))


def normal(fit, level):
    """Intervals of the constants as they were: of a normal, whatever the runs."""
    from scipy.special import ndtri

    width = ndtri(0.5 + level / 2)
    return {name: np.sort(getattr(fit.law, name) * np.exp(
        width * math.sqrt(fit.covariance[name][name]) * np.array([-1, 1]))) for name in CONSTANTS}


def student(fit, level):
    low, high = fit.interval(level)
    return {name: (getattr(low, name), getattr(high, name)) for name in CONSTANTS}


def profiled(fit, level):
    found = fit.profile(level, CONSTANTS)
    return {name: (found[name].low, found[name].high) for name in CONSTANTS}


def wild(fit, level, draws=999):
    """By the studentised wild bootstrap of the runs' scores."""
    task = fit.task
    with jax.enable_x64(True):
        plain = Stack.of_weights(task, task.weights[None])
        known = plain.rows(fit.point[None])
    jacobian = known.jacobian[0] * np.sqrt(2 * task.weights)[:, None]
    r, run = known.residuals[0] * np.sqrt(2 * task.weights), task.run
    A = np.linalg.inv(jacobian.T @ jacobian)
    G, q = run.max() + 1, jacobian.shape[1]
    scores, own = np.zeros((G, q)), np.zeros((G, q, q))
    np.add.at(scores, run, jacobian * r[:, None])
    np.add.at(own, run, jacobian[:, :, None] * jacobian[:, None, :])
    v = WEBB.ravel()[np.random.default_rng(0).integers(6, size=(draws, G))]
    moved = np.einsum("dg,gq->dq", v, scores) @ A  # how far each draw's fit is
    left = v[:, :, None] * scores - np.einsum("gpq,dq->dgp", own, moved)  # scores at it
    slope = known.slope[0]
    names, ends = list(task.Law.constants), {}
    for name in CONSTANTS:
        c = A @ slope[names.index(name)]
        error = math.sqrt(np.sum((scores @ c)**2))
        t = np.abs(moved @ slope[names.index(name)]) / np.sqrt(np.sum((left @ c)**2, axis=1))
        half = np.quantile(t, level) * error
        value = getattr(fit.law, name)
        ends[name] = value * np.exp(-half), value * np.exp(half)
    return ends


METHODS = {  # name: (what fit is asked, how intervals of the constants are made)
    "sandwich, normal": ({"errors": "sandwich"}, normal),
    "sandwich, t": ({"errors": "sandwich"}, student),
    "sandwich, wild": ({"errors": "sandwich"}, wild),
    "jackknife, t": ({"errors": "jackknife"}, student),
    "jackknife, t, profile": ({"errors": "jackknife"}, profiled),
    "trajectory, sandwich, t": ({"errors": "sandwich", "weights": "trajectory"}, student),
    "trajectory, jackknife, t": ({"errors": "jackknife", "weights": "trajectory"}, student),
}
PREDICTS = ("sandwich, normal", "sandwich, t", "jackknife, t", "trajectory, sandwich, t", "trajectory, jackknife, t")


def measure(kind, runs, tables=TABLES):
    """{method: (shares held [quantity, level], errors over true [constants], rms error of the prediction)}."""
    methods = {name: how for name, how in METHODS.items() if kind == "trajectories" or "trajectory" not in name}
    held = {name: np.full((tables, len(CONSTANTS) + 2, len(LEVELS)), np.nan) for name in methods}
    off, width = ({name: np.full(tables, np.nan) for name in methods} for _ in range(2))
    for seed in range(tables):
        given, at, ahead, new = table(kind, runs, seed)
        fits = {}
        for name, (question, intervals) in methods.items():
            key = tuple(question.items())
            try:
                if key not in fits:
                    fits[key] = jsc.fit(laws.Chinchilla, given, objective=jsc.squares(), **question)
                fit = fits[key]
            except jsc.FitError:
                continue
            if not fit.converged or fit.certificate.at_bound:
                continue
            for i, level in enumerate(LEVELS):
                ends = intervals(fit, level)
                for j, constant in enumerate(CONSTANTS):
                    held[name][seed, j, i] = ends[constant][0] <= getattr(TRUE, constant) <= ends[constant][1]
                if name in PREDICTS:
                    for j, (aim, how) in enumerate(((ahead, False), (new, True)), len(CONSTANTS)):
                        low, high = predicted(fit, level, how, at, name.endswith("normal"))
                        held[name][seed, j, i] = math.nan if math.isnan(low) else low <= aim <= high
                        if not how and level == 0.8:
                            width[name][seed] = math.log(high / low)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                off[name][seed] = math.log(float(fit.predict(**at)) / ahead)
    return {name: (np.nanmean(held[name], axis=0), np.mean(~np.isnan(held[name][:, 0, 0])),
                   np.sqrt(np.nanmedian(off[name]**2)), np.nanmedian(width[name])) for name in methods}


def predicted(fit, level, new_run, at, as_normal):
    """The ends of a prediction's interval, by a normal as they were, or as they are."""
    if not as_normal:
        return fit.predict_interval(level, new_run, **at)
    if new_run:  # there was none
        return math.nan, math.nan
    from jaxscale.prediction import predict

    drawn = uncertainty.draw(fit.law, uncertainty.as_matrix(fit.covariance), fit.facts["ranges"], 1000, 0)
    return np.quantile(predict(fit, at, law=drawn), uncertainty.ends(level))


def share(x):
    return "-" if math.isnan(x) else f"{x:.0%}"


def page(found, seconds):
    lines = ["# Intervals from few runs", "",
             "Written by `python benchmarks/few_runs.py`; what it does is in its first lines. "
             f"{TABLES} tables each: a share is known to {math.sqrt(0.8 * 0.2 / TABLES):.1%} (80%) and "
             f"{math.sqrt(0.95 * 0.05 / TABLES):.1%} (95%). Each cell: coverage of nominal 80% / 95%.", ""]
    for (kind, runs), by in found.items():
        columns = ["errors, quantile", *CONSTANTS, "loss ahead", "a new run's", "fitted", "median error ahead",
                   "width of 80%"]
        lines += [f"## {runs} runs, {kind}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        for name, (shares, kept, off, width) in by.items():
            cells = [f"{share(one[0])} / {share(one[1])}" if not np.isnan(one[0]) else "-" for one in shares]
            wide = "-" if math.isnan(width) else f"{width:.1%}"
            lines.append(f"| {name} | {' | '.join(cells)} | {kept:.0%} | {off:.2%} | {wide} |")
        lines.append("")
    return "\n".join([*lines, f"jaxscale {jsc.__version__}, jax {jax.__version__}, {jax.default_backend()}, "
                      f"{seconds:.0f} s.", ""])


def main(kind="trajectories"):
    begun, found = time.time(), {}
    name = Path(__file__).with_name("few_runs.md" if kind == "trajectories" else "few_final_losses.md")
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for runs in SIZES if kind == "trajectories" else SIZES[1:]:
            found[kind, runs] = measure(kind, runs)
            print(kind, runs, f"{time.time() - begun:.0f} s", flush=True)
            name.write_text(page(found, time.time() - begun))


if __name__ == "__main__":
    main(*sys.argv[1:])
