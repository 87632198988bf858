"""Forecast the target run before it is trained: choose how to fit by back-test on the grid, fit, write the losses.

    python benchmarks/ladder/forecast.py benchmarks/ladder/cpu.toml benchmarks/ladder/results

Reads grid.csv of the results and writes forecast.json there. Every back-test fits small sizes of the grid and predicts
one several times larger. Two choices are made by the lowest mean of their median errors, for each law by itself: how
many first steps of a run are left out of the fit, and from which N on. What is scored is the same for all. Runs of
another depth than the target's are left out.
"""

import argparse
import itertools
import json
import tomllib
import warnings
from pathlib import Path

import ladder
import numpy as np
import pandas as pd

import jaxscale as jsc
from jaxscale import laws
from jaxscale.files import write_atomically

SETS = {"mix": "loss", "prose": "loss_prose"}
SCORED_FROM = 400  # steps: four times the warm-up
BACKTESTS = ((24576, 98304), (55296, 221184), (24576, 221184))  # fit up to, predict
SKIPPED, SMALLEST = (200, 400, 600, 1000), (0, 3000, 6000)
LAWS = {"L(N, S, B)": laws.KaplanNSB, "L(N, S), batch-blind": laws.KaplanNS, "Chinchilla L(N, D)": laws.Chinchilla}
SHIFTED = "shifted curve"


def fitted(name, table, column, skipped, smallest, errors=None, floor=True):
    """A law through the rows after `skipped` steps of runs from N = `smallest` on.

    Every run as a whole counts the same, its first steps included: what is left out takes its share of weight along.
    """
    runs = jsc.read_runs(table[table["N"] >= smallest], columns={"loss": column}, weights="run")
    return jsc.fit(LAWS[name], runs.after_warm_up(steps=skipped - 1), objective=jsc.squares(), errors=errors,
                   free=("E",) if floor and not name.startswith("Chinchilla") else ())


def predicted(fit, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is an extrapolation: it is meant to be
        return np.asarray(fit.predict(**{name: rows[name].to_numpy(float) for name in fit.law.inputs}))


def shifted(table, column, N, rows):
    """The largest run's losses at the rows' own B and S, times (N / N_largest)^-alpha; alpha from the final losses of
    the four largest sizes at the same B. Not a number beyond that run's last step, or at another batch size."""
    largest, found = table["N"].max(), np.full(len(rows), np.nan)
    for B, part in table[table["seed"] == 0].groupby("B"):
        curve = part[part["N"] == largest]
        inside = ((rows["B"] == B) & (rows["S"] <= curve["S"].max())).to_numpy()
        if curve.empty or not inside.any():
            continue
        final = part[part["N"] >= np.sort(part["N"].unique())[-4:][0]].groupby("N").last()
        slope, _ = np.polyfit(np.log(final.index), np.log(final[column]), 1)
        loss = np.interp(np.log(rows["S"][inside]), np.log(curve["S"]), np.log(curve[column]))
        found[inside] = np.exp(loss + slope * np.log(N / largest))
    return found


def error(forecast, truth):
    off = np.log(forecast / truth)
    return {"median": float(np.nanmedian(np.abs(off))), "worst": float(np.nanmax(np.abs(off))),
            "mean": float(np.nanmean(off))}


def backtests(table):
    """The errors of every choice on every back-test."""
    found = []
    for most, N in BACKTESTS:
        small, rows = table[table["N"] <= most], table[(table["N"] == N) & (table["S"] >= SCORED_FROM)]
        for name, skipped, smallest in itertools.product(LAWS, SKIPPED, SMALLEST):
            fit = fitted(name, small, "loss", skipped, smallest)
            found.append({"law": name, "skipped": skipped, "smallest": smallest, "fitted up to": most, "predicted": N}
                         | error(predicted(fit, rows), rows["loss"].to_numpy()))
        found.append({"law": SHIFTED, "skipped": 0, "smallest": 0, "fitted up to": most, "predicted": N}
                     | error(shifted(small, "loss", N, rows), rows["loss"].to_numpy()))
        print(f"back-test {most} -> {N} done", flush=True)
    return pd.DataFrame(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("results", type=Path)
    asked = parser.parse_args()
    config = tomllib.loads(asked.config.read_text())
    targets = ladder.runs_of(config, "target", lambda N, B: np.nan)
    table = pd.read_csv(asked.results / "grid.csv")
    table = table[table["layers"] == targets[0].shape.layers]
    rows = pd.concat([pd.DataFrame({"run": run.name, "N": run.shape.parameters, "B": run.batch,
                                    "S": run.records(config["records"])}) for run in targets])
    rows = rows[rows["S"] >= SCORED_FROM].reset_index(drop=True)
    rows["D"] = rows["S"] * rows["B"]
    tested = backtests(table)
    means = tested.groupby(["law", "skipped", "smallest"])["median"].mean()
    chosen = {name: tuple(map(int, means[name].idxmin())) for name in LAWS}
    print(means.to_string(float_format="%.4f"), chosen, sep="\n", flush=True)
    document = {"scored from step": SCORED_FROM, "chosen": chosen, "back-tests": tested.to_dict("list"),
                "rows": rows.to_dict("list"), "sets": {}}
    for place, column in SETS.items():
        fits = {name: fitted(name, table, column, *chosen[name], errors="sandwich") for name in LAWS}
        first = fits["L(N, S, B)"]
        print(first)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            low, high = first.predict_interval(0.8, **{key: rows[key].to_numpy(float) for key in ("N", "S", "B")})
        forecasts = {name: predicted(fit, rows) for name, fit in fits.items()} | {
            SHIFTED: shifted(table, column, rows["N"].iloc[0], rows), "low": low, "high": high}
        constants = {key: float(getattr(first.law, key)) for key in first.law.constants}
        document["sets"][place] = {"constants": constants} | {
            key: [None if np.isnan(x) else float(f"{x:.6g}") for x in values] for key, values in forecasts.items()}
    write_atomically(asked.results / "forecast.json", json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
