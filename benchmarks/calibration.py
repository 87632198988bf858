"""How far are forecasts off, and do intervals hold what they say? Back-tests on all real tables at hand.

    python benchmarks/calibration.py         # about 20 minutes on 2 cores; writes benchmarks/calibration.md

Every table is cut at C_max / 10^0.5, / 10, ... / 10^3; each method sees the rows up to the cut and forecasts those
beyond. Compared: one law with errors from its curvature (sandwich) or from a bootstrap of runs, both with the noise of
a run; the two bootstraps pooled with equal weights; and `jaxscale.pool`, the numbers of whose `Scale` are chosen, for
every table, on the other tables alone. (That forecasts are pooled over draws of five ways to weigh early rows was
settled with all tables in view.) Tables are those of `../shared/data`, which are not in the package, and the
ladder.
"""

import itertools
import math
import re
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pandas as pd

import jaxscale as jsc
from jaxscale import cuts, laws, validation
from jaxscale.prediction import predict_each
from jaxscale.uncertainty import student

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
LEVELS = (0.5, 0.8, 0.95)
DRAWS = 200
GRID = [validation.Scale(*x) for x in itertools.product(
    (0.5, 0.7, 0.85, 1.0), (0.5, 0.6, 0.7, 0.85), (0.0, 0.003, 0.006, 0.009), (0.0, 0.05, 0.1))]
CURVES = {"d=1024_l=24_h=8": 411616256.0, "d=512_l=8_h=4": 78.8e6, "d=576_l=24_h=8": 153.9e6, "d=96_l=8_h=4": 10.7e6}
PYTHIA = {"70m": 70e6, "350m": 410e6, "1.3b": 1.4e9, "2.8b": 2.8e9, "6.9b": 6.9e9, "12b": 12e9}


def tables():
    """(table, part) -> DataFrame with N, D, loss, run."""
    def read(name):
        return pd.read_csv(DATA / name)

    def rows(table, run=None):
        return table[["N", "D", "loss"]].astype(float).assign(run=range(len(table)) if run is None else run)

    found = {}
    table = read("chinchilla_epoch/points.csv")
    found["chinchilla_epoch", ""] = rows(table[table["excluded_in_paper"] == 0])
    for name, part in read("gadre_overtraining/models_losses.csv").groupby("eval_set"):
        found["gadre_overtraining", name] = rows(part)
    table = read("gemstones/points.csv").rename(columns={"final_loss": "loss"})
    for name in ("cool_end", "hot"):
        part = table[table["subset"] == name]
        found["gemstones", name] = rows(part, part["run_name"])
    for name, part in read("porian_isoflop/isoflop_points.csv").groupby("setting"):
        found["porian_isoflop", f"setting {name}"] = rows(part[np.isfinite(part["loss"])])
    table = read("misfitting/scaling_results_last_ckpt_only.csv")
    best = table.loc[table.groupby(["N", table["D"].round(-8)])["loss"].idxmin()]
    found["misfitting", "best learning rate"] = rows(best)
    table = read("hitchhiker_colpret/trajectories.csv").rename(columns={"tokens": "D"})
    for family in ("c4_original", "rw_original"):
        part = table[table["model"].str.startswith(family)]
        part = part.assign(N=[CURVES[re.search(r"d=.*?(?=-[0-9.]+$)", model).group()] for model in part["model"]])
        part = pd.concat([thinned(run[run["D"] > 0.1 * run["D"].max()]) for _, run in part.groupby("model")])
        found["hitchhiker: trajectories", family] = rows(part, part["model"])
    part = table[table["model"].str.match(r"pythia-[\d.]+[mb]-deduped$|pythia-2.8b$") & (table["D"] > 1e10)]
    part = part.assign(N=[PYTHIA[model.split("-")[1]] for model in part["model"]])
    found["hitchhiker: Pythia", ""] = rows(part, part["model"])
    table = jsc.datasets.ladder().query("S >= 400 and B == 16384")
    part = pd.concat([thinned(run) for _, run in table.groupby("run")])
    found["ladder", "B = 16384"] = rows(part, part["run"])
    return found


def thinned(run, points=10):
    run = run.sort_values("D")
    return run.iloc[np.unique(np.linspace(0, len(run) - 1, points).astype(int))]


def single(Law, tried, cut, method):
    """Draws [draws, n] of ln loss of every row by one law fitted below a cut, without noise; None where it fails."""
    fitted = (tried.along <= cut.at * (1 + 1e-9)).astype(float)
    try:
        fit = jsc.fit(Law, tried.table, weights=fitted, errors="sandwich")
        drawn = fit.sample(DRAWS) if method == "curvature" else fit.bootstrap(DRAWS).law
    except (jsc.FitError, jsc.InputError):
        return None
    with np.errstate(all="ignore"):
        lines = np.log(predict_each(drawn, {name: tried.table.columns[name] for name in Law.inputs}))
        best = np.log(fit.law(*(tried.table.columns[name] for name in Law.inputs)))
    return best, lines[np.isfinite(lines).all(axis=1)]


def judged(forecasts):
    """Of (distance, error, {level: half}) [n]: a row of numbers per bucket of distance, NaN where there is none."""
    distance, error, halves = forecasts
    found = []
    for low, high in itertools.pairwise(validation.BUCKETS):
        at = (distance > low) & (distance <= high)
        if not at.any():
            found.append([math.nan] * (3 + len(LEVELS)))
            continue
        low_end, high_end = (x[at] for x in halves[0.8])
        missed = np.maximum(low_end - error[at], 0) + np.maximum(error[at] - high_end, 0)
        found.append([np.mean(np.abs(error[at])), np.mean(high_end - low_end),
                      np.mean(high_end - low_end + 10 * missed),
                      *(np.mean((halves[level][0][at] <= error[at]) & (error[at] <= halves[level][1][at]))
                        for level in LEVELS)])
    return np.array(found)


def of_draws(tried, cut, centre, draws):
    """`judged` of draws [draws, n] with a run's noise."""
    at = validation.ahead(cut, tried.along)
    noisy = draws[:, at] + cut.noise * np.random.default_rng(0).standard_normal((len(draws), at.sum()))
    ends = {level: tuple(np.quantile(noisy - centre[at], (0.5 - level / 2, 0.5 + level / 2), axis=0))
            for level in LEVELS}
    return judged((tried.along[at] / cut.at, tried.observed[at] - centre[at], ends))


def of_pool(tried, scale):
    """`judged` [cuts] of the pool at a scale, and the means of |error| / sd at width 1 of every cut."""
    found, sizes = [], []
    tested = validation.backtest_of(tried.cuts[:-1], tried.along, tried.observed, ["" for _ in tried.names], "C",
                                    tried.table.row, scale)
    for cut in np.unique(tested.cut):
        at = tested.cut == cut
        halves = {level: student(level, math.inf) * tested.sd[at] for level in LEVELS}
        found.append(judged((tested.distance[at], tested.error[at],
                             {level: (-half, half) for level, half in halves.items()})))
    for cut in tried.cuts[:-1]:
        at = validation.ahead(cut, tried.along)
        both = cut.combined(at, tried.along, np.full(len(tried.names), 1 / len(tried.names)), scale=scale)
        sizes.append(np.mean(np.abs(tried.observed[at] - both.centre) / both.sd))
    return np.array(found), np.array(sizes)


def chosen(studies, names):
    """The scale of least mean ln score (distances up to 30) on the tables `names`, each counting the same."""
    def mean_log(scale_index):
        return np.mean([np.log(np.nanmean(np.concatenate([found[scale_index][0] for found in studies[name]])[:, :3, 2]))
                        for name in names])

    return int(np.argmin([mean_log(i) for i in range(len(GRID))]))


def with_usual(scale, studies, names, index):
    sizes = np.concatenate([found[index][1] for name in names for found in studies[name]])
    return scale._replace(usual=float(np.exp(np.mean(np.log(sizes)))))


def row(label, results):
    """A line of the table: per bucket error, score, coverage; `results`: table -> judged [tasks, buckets, numbers]."""
    tasks = np.concatenate([*results.values()])
    each = np.array([np.nanmean(found, axis=0) for found in results.values()])
    cells = []
    for bucket in range(len(validation.BUCKETS) - 1):
        mean, tables_mean = np.nanmean(tasks[:, bucket], axis=0), np.nanmean(each[:, bucket], axis=0)
        typical = np.exp(np.nanmean(np.log(each[:, bucket, 2])))
        cover = "/".join(f"{100 * share:.0f}" for share in mean[3:])
        cells.append(f"{mean[0]:.2%}, {cover} ({100 * tables_mean[4]:.0f}), {100 * mean[2]:.1f} ({100 * typical:.1f})")
    return f"| {label} | " + " | ".join(cells) + " |"


def main():
    warnings.simplefilter("ignore")
    started = time.time()
    methods = {f"{law}, {how}": {} for law in ("Chinchilla", "KaplanND") for how in ("curvature", "bootstrap")}
    pooled, studies, count = {}, {}, 0
    for (name, part), table in tables().items():
        tried = cuts.forecasts(jsc.read_runs(table))
        for cut in tried.cuts[:-1]:
            count += 1
            both = []
            for law, how in itertools.product((laws.Chinchilla, laws.KaplanND), ("curvature", "bootstrap")):
                found = single(law, tried, cut, how)
                if found is None:
                    continue
                methods[f"{law.__name__}, {how}"].setdefault(name, []).append(of_draws(tried, cut, *found))
                both += [found] if how == "bootstrap" else []
            if len(both) == 2:
                least = min(len(draws) for _, draws in both)
                pooled.setdefault(name, []).append(of_draws(
                    tried, cut, np.mean([best for best, _ in both], axis=0),
                    np.concatenate([draws[:least] for _, draws in both])))
        studies.setdefault(name, []).append([of_pool(tried, scale) for scale in GRID])
        studies[name][-1].append(tried)
        print(f"{name} {part}: {len(tried.cuts) - 1} cuts, {time.time() - started:.0f} s", flush=True)
    names = [*studies]
    default, scales = {}, {}
    for name in names:
        others = [other for other in names if other != name]
        index = chosen(studies, others)
        scales[name] = with_usual(GRID[index], studies, others, index)
        default[name] = np.concatenate([of_pool(found[-1], scales[name])[0] for found in studies[name]])
    index = chosen(studies, names)
    shipped = with_usual(GRID[index], studies, names, index)
    buckets = [f"{low:g}-{high:g}x" if high < math.inf else f"over {low:g}x"
               for low, high in itertools.pairwise(validation.BUCKETS)]
    lines = ["# Forecasts of larger runs from smaller ones: error and calibration", "",
             "Written by `python benchmarks/calibration.py`; what it does is in its first lines.", "",
             f"{count} tasks (a table's part and a cut) of {len(names)} tables: {', '.join(names)}.", "",
             "By distance in compute beyond the largest fitted run: mean error of ln loss; coverage in % of intervals "
             "of 50/80/95% (in brackets of 80% with every table counting the same); interval score of 80%, times 100, "
             "mean over tasks (in brackets its geometric mean over tables). Less is better but for coverage.", "",
             "| method | " + " | ".join(buckets) + " |", "|---" * (1 + len(buckets)) + "|"]
    lines += [row(label, {name: np.array(found) for name, found in results.items()})
              for label, results in methods.items()]
    lines.append(row("both laws' bootstraps, equal weights",
                     {name: np.array(found) for name, found in pooled.items()}))
    lines.append(row("`jaxscale.pool`, its scale chosen on the other tables", default))
    lines += ["", "Coverage of the pool's 80% and its score (times 100), table by table:", "",
              "| table | tasks | " + " | ".join(buckets) + " | scale a, b, c, g (usual) chosen on the others |",
              "|---" * (3 + len(buckets)) + "|"]
    for name, found in default.items():
        mean = np.nanmean(found, axis=0)
        cells = ["-" if np.isnan(x[0]) else f"{100 * x[4]:.0f}%, {100 * x[2]:.1f}" for x in mean]
        scale = scales[name]
        lines.append(f"| {name} | {len(found)} | " + " | ".join(cells)
                     + f" | {scale.a:g}, {scale.b:g}, {scale.c:g}, {scale.g:g} ({scale.usual:.2f}) |")
    lines += ["", f"On all tables: a {shipped.a:g}, b {shipped.b:g}, c {shipped.c:g}, g {shipped.g:g}, usual "
              f"{shipped.usual:.2f}; `jaxscale.validation.SCALE` is {tuple(validation.SCALE)}.", "",
              f"jaxscale {jsc.__version__}, jax {jax.__version__}, {jax.devices()[0].platform}, "
              f"{time.time() - started:.0f} s."]
    (HERE / "calibration.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
