"""Forecast the target run before it is trained: choose how to fit by back-test on the grid, fit, write the losses.

    python benchmarks/ladder/forecast.py benchmarks/ladder/cpu.toml benchmarks/ladder/results

Reads grid.csv of the results and writes forecast.json there. The back-test fits the smaller sizes only and predicts a
larger one of the grid, several times larger, as the target is larger than the grid; the choice of lowest median error
forecasts. The rivals (Chinchilla's law, Kaplan's without a batch size, the largest run's curve moved by a power law of
N) see the same rows.
"""

import argparse
import itertools
import json
import tomllib
from pathlib import Path

import ladder
import model
import numpy as np
import pandas as pd

import jaxscale as jsc
from jaxscale import laws
from jaxscale.files import write_atomically

SETS = {"mix": "loss", "prose": "loss_prose"}
WARM_UP = 2 * model.WARM_UP  # steps of each run left out of fits and scores
BACKTESTS = ((24576, 230400), (13824, 98304), (55296, 230400))  # fit up to, predict
LAWS = {"L(N, S, B)": laws.KaplanNSB, "L(N, S), batch-blind": laws.KaplanNS, "Chinchilla L(N, D)": laws.Chinchilla}
OBJECTIVES = {"huber": jsc.huber(), "squares": jsc.squares()}


def fitted(Law, table, column, *, floor=False, objective="huber", errors=None):
    """A law through the rows after warm-up, every run counting the same."""
    runs = jsc.read_runs(table, columns={"loss": column}, weights="run").after_warm_up(steps=WARM_UP - 1)
    free = ("E",) if floor and Law is not laws.Chinchilla else ()
    return jsc.fit(Law, runs, objective=OBJECTIVES[objective], free=free, errors=errors)


def shifted(table, column, N, rows):
    """The largest run's losses at the rows' own B and S, times (N / N_largest)^-alpha, alpha from the final losses."""
    largest, predicted = table["N"].max(), np.full(len(rows), np.nan)
    for B, part in table.groupby("B"):
        curve = part[(part["N"] == largest) & (part["seed"] == 0)]
        here = (rows["B"] == B).to_numpy()
        if curve.empty or not here.any():
            continue
        S = curve["S"].max()
        final = {size: np.interp(np.log(S), np.log(own["S"]), np.log(own[column]))
                 for size, own in part[part["seed"] == 0].groupby("N")}
        sizes = sorted(final)[-4:]
        slope, _ = np.polyfit(np.log(sizes), [final[size] for size in sizes], 1)
        inside = here & (rows["S"] <= S).to_numpy()
        loss = np.interp(np.log(rows["S"][inside]), np.log(curve["S"]), np.log(curve[column]))
        predicted[inside] = np.exp(loss + slope * np.log(N / largest))
    return predicted


def predicted(fit, rows):
    return np.asarray(fit.predict(**{name: rows[name].to_numpy(float) for name in fit.law.inputs}))


def scored(table, N):
    """The rows of the grid's seed 0 at this size that a back-test scores: after warm-up."""
    return table[(table["N"] == N) & (table["seed"] == 0) & (table["S"] >= WARM_UP)]


def backtests(table):
    """The error of every choice on every back-test: rows of choice, fitted up to, predicted, median and worst."""
    choices = [(name, floor, objective) for name, floor, objective in itertools.product(LAWS, (False, True), OBJECTIVES)
               if not (floor and name.startswith("Chinchilla"))]
    found = []
    for most, N in BACKTESTS:
        small, rows = table[table["N"] <= most], scored(table, N)
        truth = rows["loss"].to_numpy()
        for name, floor, objective in choices:
            fit = fitted(LAWS[name], small, "loss", floor=floor, objective=objective)
            found.append({"law": name, "floor": floor, "objective": objective, "fitted up to": most, "predicted": N,
                          **errors(predicted(fit, rows), truth)})
        found.append({"law": "shifted curve", "floor": False, "objective": "", "fitted up to": most, "predicted": N,
                      **errors(shifted(small, "loss", N, rows), truth)})
    return pd.DataFrame(found)


def errors(forecast, truth):
    error = np.log(forecast / truth)
    return {"median": float(np.nanmedian(np.abs(error))), "worst": float(np.nanmax(np.abs(error))),
            "bias": float(np.nanmean(error))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("results", type=Path)
    asked = parser.parse_args()
    table = pd.read_csv(asked.results / "grid.csv")
    tested = backtests(table)
    print(tested.to_string(float_format="%.4f"), flush=True)
    ours = tested[tested["law"] == "L(N, S, B)"]
    means = ours.groupby(["floor", "objective"])["median"].mean()
    floor, objective = means.idxmin()
    print(f"chosen: E {'fitted' if floor else '= 0'}, {objective}")
    config = tomllib.loads(asked.config.read_text())
    targets = ladder.runs_of(config, "target", lambda N, B: np.nan)
    rows = pd.concat([pd.DataFrame({"run": run.name, "N": run.shape.parameters, "B": run.batch,
                                    "S": run.records(config["records"])}) for run in targets])
    rows = rows[rows["S"] >= WARM_UP].reset_index(drop=True).assign(D=lambda t: t["S"] * t["B"])
    forecasts = {"chosen": {"floor": bool(floor), "objective": objective}, "warm-up left out, steps": WARM_UP,
                 "back-tests": tested.to_dict("records"), "rows": rows.to_dict("list"), "sets": {}}
    for name, column in SETS.items():
        fit = fitted(laws.KaplanNSB, table, column, floor=floor, objective=objective, errors="sandwich")
        print(fit)
        low, high = fit.predict_interval(0.8, **{key: rows[key].to_numpy(float) for key in ("N", "S", "B")})
        blind = {law: predicted(fitted(LAWS[law], table, column, floor=True, objective=objective), rows)
                 for law in list(LAWS)[1:]}
        own = {"L(N, S, B)": predicted(fit, rows), "low": low, "high": high, **blind,
               "shifted curve": shifted(table, column, rows["N"].iloc[0], rows)}
        constants = {key: float(getattr(fit.law, key)) for key in fit.law.constants}
        forecasts["sets"][name] = {"constants": constants} | {
            key: [None if np.isnan(x) else float(f"{x:.6g}") for x in np.asarray(values, float)]
            for key, values in own.items()}
    write_atomically(asked.results / "forecast.json", json.dumps(forecasts, indent=1) + "\n")


if __name__ == "__main__":
    main()
