"""The rest of single learning curves: how far are forecasts off, and do intervals hold what they say?

    python benchmarks/learning_curves.py     # about 10 minutes on 2 cores; writes benchmarks/learning_curves.md

Every curve of the real tables at hand is cut at a half and at a quarter of its last x (those of Google's benchmark
where their authors cut them), and the rest is foretold by `recipes.learning_curves` from the rows before, all curves of
a table and cut together. The numbers of its `Scale` are chosen, for every table, on the other tables alone. Beside it:
one law, fitted to the same rows, with intervals from the errors of its constants and the noise of a row. Curves count
the same. Tables are those of `../shared/data`, which are not in the package, and the ladder.
"""

import itertools
import math
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

import jaxscale as jsc
from jaxscale import validation
from jaxscale.prediction import evaluate
from jaxscale.recipes import learning
from jaxscale.uncertainty import student

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
LEVELS = (0.5, 0.8, 0.95)
BUCKETS = (1.0, 1.5, 2.0, 4.0, math.inf)
SPLITS = (0.5, 0.25)
LEAST_CURVE, LEAST_KNOWN = 20, 8
DECAYING = "multi_power_law, decaying"  # its forecasts are asked for what they do not promise: no scale is chosen on it
DRAWS = 200  # of constants
LENGTHS = np.array([8, 16, 32, 64])  # rows of a curve that are weighed by trajectory: each compiles anew
GRID = [validation.Scale(1.0, *x, 1.0) for x in itertools.product(
    (0.5, 1.0, 2.0), (0.003, 0.005, 0.01, 0.02, 0.04), (0.0, 0.3, 0.6))]
BASELINES = {"M2 alone, sandwich": ("power-law", ("E",), None), "M3 alone, sandwich": ("shifted-power-law", (), None),
             "M2 alone, weights=\"trajectory\"": ("power-law", ("E",), "trajectory")}


def tables():
    """Name -> DataFrame with curve, x, loss, and for Google's whether a row is known."""
    def read(name, **columns):
        return pd.read_csv(DATA / name).rename(columns={old: new for new, old in columns.items()})

    table = read("google_revisiting/benchmark.lang.csv", x="Seen Examples", loss="Loss", known="Training")
    found = {"google_revisiting": table.assign(curve=table.Domain + " " + table.Task + " " + table.Model)}
    table = read("hitchhiker_colpret/trajectories.csv", x="tokens", curve="model")
    found["hitchhiker_colpret"] = table[~table.curve.str.startswith("lambda")]  # they are Google's
    found["gemstones"] = read("gemstones/trajectories_dense.csv", x="D", curve="run_name", loss="final_loss")
    table = read("misfitting/scaling_results.csv", x="D")
    names = zip(table.model, table.total_steps, table.peak_lr, strict=True)
    found["misfitting"] = table.assign(curve=["{} {} {}".format(*name) for name in names])
    table = read("multi_power_law/loss_curves.csv", x="step")
    table["curve"] = table.model_M.astype(str) + "M " + table.schedule
    constant = table.schedule.str.startswith("constant")
    found["multi_power_law, constant"], found[DECAYING] = table[constant], table[~constant]
    ladder = jsc.datasets.ladder()
    found["ladder"] = ladder.assign(curve=ladder.run, x=ladder.D)
    return found


def split(table):
    """(share, known rows, {curve: rows to foretell}) of a table."""
    for share in ("own",) if "known" in table else SPLITS:
        known, ahead = [], {}
        for name, rows in table.dropna(subset=["x", "loss"]).groupby("curve"):
            rows = rows.sort_values("x", kind="stable").drop_duplicates("x")
            early = rows.known == 1 if share == "own" else rows.x <= share * rows.x.max()
            if early.sum() >= LEAST_KNOWN and not early.all() and (share == "own" or len(rows) >= LEAST_CURVE):
                known.append(rows[early])
                ahead[name] = rows[~early]
        yield share, pd.concat(known)[["curve", "x", "loss"]], ahead


class Case(NamedTuple):
    """A curve cut at a share: what is known, and what came."""

    share: object
    curve: learning.Curve
    x: np.ndarray  # [m] to foretell
    observed: np.ndarray  # [m] ln loss
    forecasts: np.ndarray  # [members, m] ln loss


def cases(table):
    found, lost = [], {}
    for share, known, ahead in split(table):
        made = jsc.recipes.learning_curves(known, x="x", by="curve")
        lost |= {f"{name} ({share})": why for name, why in made.lost.items()}
        for curve in made.curves:
            x, observed = ahead[curve.name].x.to_numpy(), np.log(ahead[curve.name].loss.to_numpy())
            filled = np.concatenate([x, np.full(-len(x) % 512, x[-1])])  # few shapes to compile
            with np.errstate(all="ignore"):
                each = np.log(curve.each(filled))[:, :len(x)]
            found.append(Case(share, curve, x, observed, each))
    return found, lost


def of_case(case, scale):
    """(distance, error, sd) [m] at a scale."""
    curve = case.curve
    width = validation.judge(curve.cuts[:-1], curve.x, np.log(curve.loss), len(curve.members), scale, curve.weights)[1]
    distance = case.x / curve.x[-1]
    both = validation.combine(case.forecasts, curve.weights, curve.noise, distance, width, scale)
    return distance, case.observed - both.centre, both.sd


def usual_of(cases, scale):
    """Geometric mean over curves of the mean |error| / sd of their back-tests at width 1, each curve the same."""
    found = []
    for curve in (case.curve for case in cases):
        own = []
        for cut in curve.cuts[:-1]:
            at = validation.ahead(cut, curve.x)
            both = validation.combine(cut.forecasts[:, at], curve.weights, cut.noise, curve.x[at] / cut.at, 1.0, scale)
            own.append(np.log(max(np.mean(np.abs(np.log(curve.loss[at]) - both.centre) / both.sd), 1e-6)))
        found += [np.mean(own)] if own else []
    return float(np.mean(found))


def judged(distance, error, ends):
    """A row a bucket of distance, NaN where nothing lies: |error|, width and score of 80%, coverage of the levels."""
    found = np.full((len(BUCKETS) - 1, 3 + len(LEVELS)), np.nan)
    for bucket, (low, high) in enumerate(itertools.pairwise(BUCKETS)):
        at = (distance > low) & (distance <= high)
        if at.any():
            below, above = (x[at] for x in ends[0.8])
            missed = np.maximum(below - error[at], 0) + np.maximum(error[at] - above, 0)
            found[bucket] = [np.mean(np.abs(error[at])), np.mean(above - below), np.mean(above - below + 10 * missed),
                             *(np.mean((ends[level][0][at] <= error[at]) & (error[at] <= ends[level][1][at]))
                               for level in LEVELS)]
    return found


def of_sd(distance, error, sd):
    return judged(distance, error, {level: (-student(level, math.inf) * sd, student(level, math.inf) * sd)
                                    for level in LEVELS})


def tried(cases):
    """For every scale of the grid: ln usual of these cases, and their forecasts at that usual and at 1 of the others.

    The width is (size / usual)^p, so that another usual is but a factor usual^-p of every sd: p is found from two.
    """
    found = []
    for scale in GRID:
        one, two = ([of_case(case, scale._replace(usual=usual)) for case in cases] for usual in (1.0, math.e))
        power = [float(np.log(a[2][0] / b[2][0])) for a, b in zip(one, two, strict=True)]
        found.append((usual_of(cases, scale), one, power))
    return found


def chosen(studies, names):
    """The scale of least mean ln score among those of the grid, each made to hold 80% on average over the tables."""
    best = []
    for i, scale in enumerate(GRID):
        usual = np.mean([studies[name][i][0] for name in names])
        made = {name: [(error, sd * math.exp(-usual * power)) for (_, error, sd), power in
                       zip(studies[name][i][1], studies[name][i][2], strict=True)] for name in names}
        half = student(0.8, math.inf)
        # What a factor of all sds would have to be for each row to be held; weights: rows of a curve, curves of a table
        needed = np.concatenate([np.abs(error) / (half * sd) for rows in made.values() for error, sd in rows])
        share = np.concatenate([np.full(len(error), 1 / len(error) / len(rows)) for rows in made.values()
                                for error, _ in rows])
        order = np.argsort(needed)
        factor = needed[order][np.searchsorted(np.cumsum(share[order]) / share.sum(), 0.8)]
        score = [np.mean([np.mean(2 * half * factor * sd + 10 * np.maximum(np.abs(error) - half * factor * sd, 0))
                          for error, sd in rows]) for rows in made.values()]
        best.append((np.mean(np.log(score)), validation.Scale(*(factor * x for x in scale[:3]), scale.g,
                                                              math.exp(usual) / factor)))
    return min(best, key=lambda pair: pair[0])[1]


def alone(cases, law, free, weights):
    """`judged` of one law with draws of its constants and noise, NaN where it has no errors."""
    curves = [(case.curve.x, case.curve.loss) for case in cases]
    if weights is None:
        many = jsc.fit_groups(law, learning._stacked("x", curves, [(i, 0, len(x)) for i, (x, _) in enumerate(curves)]),
                              by="fit", free=free, objective=jsc.squares())
    found = []
    for i, (case, (x, loss)) in enumerate(zip(cases, curves, strict=True)):
        rng = np.random.default_rng(i)
        try:
            if weights is None:
                fit = many.fits[i]
            else:
                rows = np.linspace(0, len(x) - 1, LENGTHS[LENGTHS <= len(x)].max()).astype(int)
                fit = jsc.fit(law, {"D": x[rows], "loss": loss[rows], "run": ["a"] * len(rows)}, x="D", free=free,
                              objective=jsc.squares(), weights=weights)
            drawn = fit.sample(DRAWS, seed=i)
        except (AttributeError, jsc.InputError, jsc.FitError):  # no fit, or no errors
            found.append(np.full((len(BUCKETS) - 1, 3 + len(LEVELS)), np.nan))
            continue
        every = np.concatenate([x, case.x])
        filled = np.concatenate([every, np.full(-len(every) % 512, every[-1])])
        with np.errstate(all="ignore"):
            best = np.log(evaluate(fit.law, {"x": filled}))[:len(every)]
            lines = np.log(evaluate(drawn, {"x": filled}))[:, len(x):len(every)]
        noise = np.std(np.log(loss) - best[:len(x)])
        lines = lines[np.isfinite(lines).all(axis=1)]
        noisy = lines + noise * rng.standard_normal(lines.shape) - best[len(x):]
        ends = {level: tuple(np.quantile(noisy, (0.5 - level / 2, 0.5 + level / 2), axis=0)) for level in LEVELS}
        found.append(judged(case.x / x[-1], case.observed - best[len(x):], ends))
    return np.array(found)


def cells(found):
    """The cells of a row, of `judged` [curves, buckets, numbers]."""
    for bucket in np.swapaxes(found, 0, 1):
        bucket = bucket[np.isfinite(bucket[:, 0])]
        error, width, score, *cover = bucket.mean(axis=0) if len(bucket) else [np.nan] * (3 + len(LEVELS))
        yield f"{error:.2%}, {'/'.join(f'{100 * c:.0f}' for c in cover)}, {100 * width:.1f}, {100 * score:.1f}" if len(
            bucket) else "-"


def said(scale):
    return f"{scale.a:.2f}, {scale.b:.2f}, {scale.c:.4f}, {scale.g:g} ({scale.usual:.2f})"


def main():
    if not DATA.exists():
        raise SystemExit(f"the learning curves are wanted at {DATA}: they are no part of the project.")
    warnings.simplefilter("ignore")
    started = time.time()
    every, studies, single, lost = {}, {}, {}, {}
    for name, table in tables().items():
        every[name], lost[name] = cases(table)
        studies[name] = tried(every[name])
        for label, question in BASELINES.items():
            single.setdefault(label, {})[name] = alone(every[name], *question)
        print(f"{name}: {len(every[name])} curves, {time.time() - started:.0f} s", file=sys.stderr, flush=True)
    choosing = [name for name in every if name != DECAYING]
    scales = {name: chosen(studies, [other for other in choosing if other != name]) for name in every}
    shipped = chosen(studies, choosing)
    ours = {name: np.array([of_sd(*of_case(case, scales[name])) for case in found]) for name, found in every.items()}
    lines = report(every, ours, single, scales, shipped, lost)
    lines += ["", f"jaxscale {jsc.__version__}, jax {jax.__version__}, {jax.devices()[0].platform}, "
              f"{time.time() - started:.0f} s."]
    (HERE / "learning_curves.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def report(every, ours, single, scales, shipped, lost):
    choosing = [name for name in every if name != DECAYING]
    buckets = [f"{low:g}-{high:g}x" if high < math.inf else f"over {low:g}x" for low, high in
               itertools.pairwise(BUCKETS)]
    head = " | ".join(buckets) + " |"
    yielded = ["# The rest of learning curves foretold: error and calibration", "",
               "Written by `python benchmarks/learning_curves.py`; what it does is in its first lines.", "",
               "By distance, x over the last known x. In each cell: mean error of ln loss; coverage in % of intervals "
               "of 50/80/95%; mean width of the 80% interval and its interval score, both times 100. Every curve "
               "counts the same. A curve is two where it is cut at a half and at a quarter.", "",
               "## All tables, each counting the same", "", f"| method | {head}", "|---" * (1 + len(buckets)) + "|"]
    methods = {"`learning_curves`, its scale chosen on the other tables": ours} | single
    for label, found in methods.items():
        mean = np.array([[np.nanmean(found[name][:, bucket], axis=0) for bucket in range(len(buckets))]
                         for name in choosing])
        yielded.append(f"| {label} | " + " | ".join(cells(mean)) + " |")
    yielded += ["", f"Without {DECAYING}.", "", "## Table by table", "",
                f"| table | method | curves | {head}", "|---" * (3 + len(buckets)) + "|"]
    for name in every:
        for label, found in methods.items():
            count = np.sum(np.isfinite(found[name][:, :, 0]).any(axis=1))
            yielded.append(f"| {name} | {label.split(',')[0] if found is ours else label} | {count} | "
                           + " | ".join(cells(found[name])) + " |")
    yielded += ["", "## By what was known", "", f"| table | known | curves | {head}", "|---" * (3 + len(buckets)) + "|"]
    for name, found in every.items():
        for share in dict.fromkeys(case.share for case in found):
            at = [case.share == share for case in found]
            known = "as published" if share == "own" else f"first {share:.0%} of x"
            yielded.append(f"| {name} | {known} | {sum(at)} | " + " | ".join(cells(ours[name][at])) + " |")
    off = [f"{100 * cover:.0f}% on {name} at {bucket}" for name in every for bucket, cover in
           zip(buckets, np.nanmean(ours[name][:, :, 4], axis=0), strict=True) if not (0.75 <= cover <= 0.85)
           and np.isfinite(cover)]
    yielded += ["", f"Intervals of 80% held outside 75 to 85%: {'; '.join(off)}.", "",
                f"{DECAYING}: the cosine and stepped schedules of that table, cut while the rate is high and followed "
                "into its decay. A forecast is for a run that goes on as it has, so these losses are not what it "
                "promises; they are shown for how far off that is, and no scale is chosen on them.", "",
                "## The numbers of the scale: a, b, c, g (usual)", "", "| for | chosen on the others |", "|---|---|"]
    yielded += [f"| {name} | {said(scale)} |" for name, scale in scales.items()]
    yielded += ["", f"On all tables but {DECAYING}: {said(shipped)}; `jaxscale.recipes.learning.SCALE` is "
                f"{said(learning.SCALE)}. The rules for weights (their power, the share of the curve's own back-tests, "
                "the usual error of an early cut), how noise is measured, and how far the width is shrunk were chosen "
                "with all tables in view, among some 50 settings; the scale alone is chosen table by table.", "",
                "Left out: " + ("; ".join(
                    f"{curve}: {why}" for each in lost.values() for curve, why in each.items()) or "none") + "."]
    return yielded


if __name__ == "__main__":
    main()
