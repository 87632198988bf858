"""Learning curves extrapolated: M1 to M4 and a broken power law on the benchmark of Alabdulmohsin et al. 2022.

    python benchmarks/revisiting.py         # needs ../shared/data; writes benchmarks/revisiting.md; some minutes

Each of the 20 language curves is split by its authors into a part to fit and a later one to foretell, scored by the
root mean square of log(predicted) - log(observed). Beside ours stand the authors' own estimators, as re-run in the data
folder. No choice made here has seen a loss that it is scored on: laws and cuts are chosen by back-tests inside the
parts to fit.
"""

import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd

import jaxscale as jsc
from jaxscale.prediction import evaluate

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "shared" / "data" / "google_revisiting"
LAWS = {"M1": ("power-law", ()), "M2": ("power-law", ("E",)), "M3": ("shifted-power-law", ()),
        "M4": ("sigmoid-power-law", ()), "BNSL": ("broken-power-law", ())}
CUTS = (0.0, 0.15, 0.3)  # of the rows to fit, left out at the start
SHORTER = (1.0, 0.7, 0.5)  # of the last x to fit: 1 is the forecast itself, the others are back-tests
POOL = ("M2", "M3", "M4")
LEAST = 5  # rows that a fit is given


def curves():
    """{name: table by x}, with whether each row is to be fitted."""
    table = pd.read_csv(FOLDER / "benchmark.lang.csv").rename(columns={"Seen Examples": "x", "Loss": "loss"})
    table = table.assign(curve=[" ".join(row) for row in zip(table.Domain, table.Task, table.Model, strict=True)])
    return {name: part.sort_values("x", kind="stable") for name, part in table.groupby("curve")}


def published():
    table = pd.read_csv(FOLDER / "methods_M1_M4_rerun.csv")
    table = table.assign(curve=[" ".join(row) for row in zip(table.domain, table.task, table.model, strict=True)])
    return table.pivot(index="curve", columns="method", values="rmse_log")


def split(curve, shorter, cut):
    """Masks of the rows that are fitted and of those that are scored."""
    x, fit = curve.x.to_numpy(), curve.Training.to_numpy() == 1
    early = x <= shorter * x[fit].max() * (1 + 1e-9)
    if np.all(np.diff(x[fit]) > 0.3 * x[fit][1:]):  # a few points, each at twice the last: one or two fewer
        early = np.arange(len(x)) < fit.sum() - SHORTER.index(shorter)
    fitted = fit & early
    scored = ~fit if shorter == 1.0 else fit & ~early
    return fitted & (np.cumsum(fitted) > np.floor(cut * fitted.sum())), scored


def forecasts(name, tables, keys):
    """{key: log of the predicted losses of the curve's rows, nan where the rows do not tell the constants}."""
    Law, free = LAWS[name]
    parts = []
    for key in keys:
        curve, (fitted, _) = tables[key[0]], split(tables[key[0]], *key[1:])
        own = np.flatnonzero(fitted)
        places = np.arange(64 if len(own) <= 64 else 256)  # two shapes to compile
        rows = own[np.minimum(places, len(own) - 1)]
        parts.append(pd.DataFrame({"x": curve.x.to_numpy()[rows], "loss": curve.loss.to_numpy()[rows],
                                   "fit": len(parts), "weight": (places < len(own)).astype(float)}))
    whole = pd.concat(parts)
    runs = jsc.Runs.from_columns({name: whole[name] for name in ("x", "loss", "fit")}, weights=whole.weight)
    many = jsc.fit_groups(Law, runs, by="fit", free=free, objective=jsc.squares(), errors=None)
    found = {}
    for i, key in enumerate(keys):
        law = type(many.law)(**{constant: float(values[i]) for constant, values in vars(many.law).items()})
        found[key] = np.log(evaluate(law, {"x": tables[key[0]].x.to_numpy()}))
    return found, many


def rmse(tables, key, log_predicted):
    scored = split(tables[key[0]], *key[1:])[1]
    return np.sqrt(np.mean((log_predicted - np.log(tables[key[0]].loss.to_numpy()))[scored] ** 2))


def mean(values):
    """The geometric mean; a back-test of one row that is hit by chance counts as one of 1e-4."""
    return float(np.exp(np.mean(np.log(np.maximum(values, 1e-4)))))


def cells(errors, theirs):
    """Geometric mean, and the curves at or below each published estimator, and below all of them."""
    errors = np.asarray(errors) / (1 + 1e-6)  # the same optimum is a tie
    wins = [int(np.sum(errors <= theirs[method])) for method in theirs]
    return f"{mean(errors):.5f} | " + " | ".join(map(str, (*wins, int(np.sum(errors <= theirs.min(axis=1))))))


HEADER = """# Learning curves extrapolated: 20 curves of Alabdulmohsin et al. 2022

Written by `python benchmarks/revisiting.py`. Log-RMSE on the rows to foretell, per curve; least squares of log
residuals. M1 is `PowerLaw`, M2 the same with its floor freed, M3 `ShiftedPowerLaw`, M4 `SigmoidPowerLaw`, BNSL
`BrokenPowerLaw` (one break). Published: the authors' estimators, re-run (`methods_M1_M4_rerun.csv`). A cut leaves out
the first rows to fit. Back-tests fit what lies up to 0.7 and 0.5 of the last x to fit (of curves of ten points: all but
the last one or two) and are scored on the rest of the part to fit. Where the rows do not tell a law's constants apart,
M2 stands in.
"""
TOP = "| | geometric mean | at or below M1 | M2 | M3 | M4 | all four |\n|---|---|---|---|---|---|---|"


def sections():
    tables, theirs = curves(), published()
    names = list(theirs.index)
    keys = [key for key in itertools.product(names, SHORTER, CUTS) if split(tables[key[0]], *key[1:])[0].sum() >= LEAST]
    found, counts, seconds = {}, {}, {}
    for law in LAWS:
        start = time.perf_counter()
        found[law], many = forecasts(law, tables, keys)
        seconds[law] = time.perf_counter() - start
        counts[law] = int(np.isfinite(many.objective).sum()), int(many.converged.sum())
    for law in found:
        for key, values in found[law].items():
            found[law][key] = values if np.isfinite(values).all() else found["M2"][key]
    methods = {(law, cut): {key: found[law][(*key, cut)] for key in itertools.product(names, SHORTER)
                            if (*key, cut) in found[law]} for law in LAWS for cut in CUTS}
    for cut in CUTS:
        methods["median of M2, M3, M4", cut] = {key: np.median([methods[law, cut][key] for law in POOL], axis=0)
                                                for key in methods["M2", cut]}
    errors = {method: {key: rmse(tables, (*key, method[1]), values) for key, values in by.items()}
              for method, by in methods.items()}
    test = {method: np.array([by[name, 1.0] for name in names]) for method, by in errors.items()}
    back = {method: np.array([[by.get((name, shorter), np.nan) for shorter in SHORTER[1:]] for name in names])
            for method, by in errors.items()}
    back = {method: np.exp(np.nanmean(np.log(np.maximum(of, 1e-4)), axis=1)) for method, of in back.items()}

    yield HEADER
    yield f"{len(keys)} fits of each law, all in one call: " + "; ".join(
        f"{law} {counts[law][0]} told, {counts[law][1]} converged, {seconds[law]:.0f} s" for law in LAWS) + ".\n"
    yield "## The published estimators, and the same laws here, nothing left out\n"
    yield TOP
    for law in theirs:
        yield f"| {law} published | {cells(theirs[law].to_numpy(), theirs)} |"
    for law in LAWS:
        yield f"| {law} | {cells(test[law, 0.0], theirs)} |"
    yield "\n## Every law and cut\n"
    yield "| law | cut | back-tests, geometric mean | forecast, geometric mean |\n|---|---|---|---|"
    for law, cut in test:
        yield f"| {law} | {cut:.0%} | {mean(back[law, cut]):.5f} | {mean(test[law, cut]):.5f} |"

    single = [method for method in test if method[0] in LAWS]
    ways = {"one law and cut, by the back-tests of the other curves": lambda i: least(single, np.delete(every, i)),
            "the same, medians of laws among them": lambda i: least(list(test), np.delete(every, i)),
            "one law and cut, by the curve's own back-tests": lambda i: least(single, [i])}
    every = np.arange(len(names))

    def least(among, rows):
        return min(among, key=lambda method: mean(back[method][rows]))

    picks = {way: [choose(i) for i in every] for way, choose in ways.items()}
    chosen = {way: np.array([test[method][i] for i, method in enumerate(pick)]) for way, pick in picks.items()}
    yield "\n## Chosen by back-test\n"
    yield TOP
    for way, values in chosen.items():
        yield f"| {way} | {cells(values, theirs)} |"
    yield ("\nThe rules of choice were compared with these scores in view, so their order among themselves is no "
           "evidence. The least of all laws and cuts on each curve, known only afterwards, would have "
           f"{mean(np.min([test[method] for method in single], axis=0)):.5f}.")
    first, values = next(iter(chosen.items()))
    yield f"\n## Per curve: {first}\n"
    yield "| curve | M1 published | M2 | M3 | M4 | ours | law, cut | best of published |\n|" + "---|" * 8
    for i, name in enumerate(names):
        row, (law, cut) = theirs.loc[name], picks[first][i]
        verdict = "at or below" if values[i] <= row.min() else f"{values[i] / row.min():.2f} times"
        yield (f"| {name} | " + " | ".join(f"{value:.5f}" for value in row)
               + f" | {values[i]:.5f} | {law}, {cut:.0%} | {verdict} |")


def main():
    if not FOLDER.exists():
        raise SystemExit(f"the learning curves are wanted at {FOLDER}: they are no part of the project.")
    lines = []
    for line in sections():
        print(line, flush=True)
        lines.append(line)
    (HERE / "revisiting.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
