"""Write the ladder's tables and figures from its results.

    python benchmarks/ladder/report.py benchmarks/ladder/results

Reads grid.csv, grid-noise.csv, forecast.json and target.csv; writes report.md beside them and figures/*.png.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from forecast import LAWS, SCORED_FROM, SETS, SHIFTED, fitted, predicted

from jaxscale import laws, recipes
from jaxscale.files import write_atomically

matplotlib.use("agg")
from matplotlib import pyplot as plt  # noqa: E402

SCANNED = 6144  # N of the contour scan
TITLES = {"mix": "training mix", "prose": "another kind of text"}
KINDS = {"gradient": "tr Σ / |G|²", "hessian": "tr HΣ / GᵀHG", "gauss_newton": "the same, Gauss-Newton"}
OURS, RIVALS = "L(N, S, B)", (*LAWS, SHIFTED)
STEPS = (500, 1000, 2000, 4000, 8000)
SCANNED_FROM = 200  # steps: twice the warm-up
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 150,
                     "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False})


def thousands(N):
    return f"{N / 1e6:.2f}M" if N >= 1e6 else f"{N / 1e3:.3g}k"


def colours(values, name="viridis"):
    return {value: plt.get_cmap(name)(place) for value, place in zip(sorted(values), np.linspace(0, 0.9, len(values)),
                                                                     strict=True)}


def scan_of(grid):
    return recipes.contour_scan(grid[(grid["N"] == SCANNED) & (grid["S"] >= SCANNED_FROM)])


def scan_figure(scan, law, noise):
    """Steps against batch size at fixed losses, and the critical batch size with the measured noise scales."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    B = np.geomspace(scan.batch.min() / 1.5, scan.batch.max() * 1.5, 200)
    for i in range(0, len(scan.levels), 2):
        colour = plt.get_cmap("viridis")(i / len(scan.levels))
        left.loglog(B, scan.S_min[i] + scan.E_min[i] / B, color=colour, label=f"L = {scan.levels[i]:.2f}")
        left.loglog(scan.batch, scan.steps[i], "o", ms=4, color=colour)
        if scan.flagged[i].any():
            left.loglog(scan.batch[scan.flagged[i]], scan.reached[i][scan.flagged[i]], "x", ms=5, color=colour)
    left.set(xlabel="batch size B, bytes", ylabel="steps S",
             title="Contours of the loss, S = S_min + E_min / B (x: flagged)")
    left.legend(fontsize=7)
    low, high = scan.interval(0.8)
    right.errorbar(scan.levels, scan.B_crit, [scan.B_crit - low.B_crit, high.B_crit - scan.B_crit], fmt="o", ms=4,
                   color="black", label="contours: B_crit = E_min / S_min, 80%")
    L = np.geomspace(scan.levels.min() * 0.97, scan.levels.max() * 1.05, 100)
    right.plot(L, np.asarray(scan.law(L)), color="black", lw=1, label=f"B* / L^(1/α_B), α_B = {scan.law.alpha_B:.3f}")
    right.plot(scan.levels, scan.noise_scale, "s", mfc="none", color="tab:blue",
               label="contours: local dE_min / dS_min")
    right.plot(L, np.asarray(law.critical_batch_size(L)), color="tab:orange", lw=1, label="joint fit: B_crit")
    right.plot(L, np.asarray(law.noise_scale(float(SCANNED), L)), "--", color="tab:blue", lw=1,
               label="joint fit: local")
    own = noise[noise["N"] == SCANNED]
    for (kind, label), mark in zip(KINDS.items(), "xv^", strict=True):
        scale = own[f"{kind}_noise"] / own[f"{kind}_signal"].where(own[f"{kind}_signal"] > 0)
        right.plot(own["loss"], scale, mark, ms=5, alpha=0.7, label=f"measured {label}")
    right.set(xscale="log", yscale="log", xlabel="loss, nats a byte", ylabel="bytes", ylim=(100, 1e5),
              title=f"Critical batch size and noise scales, N = {thousands(SCANNED)}")
    right.invert_xaxis()
    ticks = [x for x in (2.2, 2.3, 2.4, 2.5, 2.6, 2.7, 2.8) if L.min() < x < L.max()]
    right.set_xticks(ticks, [f"{x}" for x in ticks])
    right.minorticks_off()
    right.legend(fontsize=7, loc="lower left", ncols=2)
    return figure


def forecast_figure(grid, target, forecast):
    """Small runs, the law through them, and the forecast of the target against what happened."""
    batches = sorted(target["B"].unique())
    figure, axes = plt.subplots(2, len(batches), figsize=(12, 6.5), layout="constrained", sharey="row")
    rows = pd.DataFrame(forecast["rows"])
    colour = colours(grid["N"].unique())
    for row, (name, column) in zip(axes, SETS.items(), strict=True):
        law = laws.KaplanNSB(**forecast["sets"][name]["constants"])
        own = rows.assign(**{key: forecast["sets"][name][key] for key in (OURS, "low", "high")})
        for axis, B in zip(row, batches, strict=True):
            part = grid[(grid["B"] == B) & (grid["seed"] == 0) & (grid["S"] >= SCORED_FROM)]
            for N, curve in part.groupby("N"):
                used = N >= forecast["chosen"][OURS][1]
                axis.plot(curve["S"], curve[column], ".", ms=3, color=colour[N],
                          label=thousands(N) + ("" if used else ", not fitted"))
                axis.plot(curve["S"], np.asarray(law(float(N), curve["S"].to_numpy(float), float(B))),
                          "-" if used else ":", lw=0.8, color=colour[N])
            here, seen = own[own["B"] == B], target[(target["B"] == B) & (target["S"] >= SCORED_FROM)]
            axis.fill_between(here["S"], here["low"], here["high"], color="tab:red", alpha=0.2, lw=0)
            axis.plot(here["S"], here[OURS], color="tab:red", lw=1.2, label="forecast before training, 80%")
            axis.plot(seen["S"], seen[column], "o", ms=3, mfc="none", color="black",
                      label=f"what happened, {thousands(target['N'].iloc[0])}")
            axis.set(xscale="log", title=f"B = {B} bytes" if name == "mix" else None, xlabel="steps")
            axis.set_xticks(STEPS, [f"{step:g}" for step in STEPS])
            axis.minorticks_off()
        row[0].set_ylabel(f"loss, {TITLES[name]}")
    figure.legend(*axes[0][-1].get_legend_handles_labels(), fontsize=8, loc="outside right center")
    return figure


def compared(target, forecast, name):
    """The scored rows with every forecast, what happened, and the change from the grid's largest run."""
    rows = pd.DataFrame(forecast["rows"])
    own = rows.assign(**{key: np.array(forecast["sets"][name][key], float) for key in (*RIVALS, "low", "high")})
    truth = target[["B", "S", SETS[name]]].rename(columns={SETS[name]: "truth"})
    return own.merge(truth, on=["B", "S"], validate="one_to_one")


def changes(own, grid, name):
    """Log change from the grid's largest run at the same S and B to the target; nan beyond its end."""
    largest = grid[(grid["N"] == grid["N"].max()) & (grid["seed"] == 0)]
    change = np.full(len(own), np.nan)
    for B, curve in largest.groupby("B"):
        inside = ((own["B"] == B) & (own["S"] <= curve["S"].max())).to_numpy()
        base = np.interp(np.log(own["S"][inside]), np.log(curve["S"]), np.log(curve[SETS[name]]))
        change[inside] = np.log(own["truth"][inside]) - base
    return change


def error_figure(tables):
    figure, axes = plt.subplots(1, len(tables), figsize=(10, 3.6), layout="constrained", sharey=True)
    for axis, (name, own) in zip(axes, tables.items(), strict=True):
        for rival, style in zip(RIVALS, ("-", "--", ":", "-."), strict=True):
            for B, part in own.groupby("B"):
                if part[rival].isna().all():
                    continue
                progress = np.log(part["S"] / SCORED_FROM) / np.log(part["S"].max() / SCORED_FROM)
                axis.plot(progress, 100 * (part[rival] / part["truth"] - 1), style, lw=1.4 if rival == OURS else 1,
                          color=colours(own["B"].unique(), "plasma")[B],
                          label=f"{rival}, B = {B}" if name == "mix" else None)
        axis.axhline(0, color="black", lw=0.6)
        axis.set(xlabel="share of the run's log steps after warm-up", title=TITLES[name])
    axes[0].set_ylabel("forecast over what happened, %")
    figure.legend(fontsize=7, loc="outside right center")
    return figure


def scan_table(scan, law):
    low, high = scan.interval(0.8)
    yield "| loss | runs | S_min | E_min | B_crit | 80% | local dE_min/dS_min | joint fit B_crit | joint fit local |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for i, L in enumerate(scan.levels):
        yield (f"| {L:.3f} | {np.isfinite(scan.steps[i]).sum()} | {scan.S_min[i]:.0f} | {scan.E_min[i]:.3g} | "
               f"{scan.B_crit[i]:.0f} | {low.B_crit[i]:.0f} .. {high.B_crit[i]:.0f} | {scan.noise_scale[i]:.0f} | "
               f"{float(law.critical_batch_size(L)):.0f} | {float(law.noise_scale(float(SCANNED), L)):.0f} |")
    yield f"\nB_star = {scan.law.B_star:.4g} ({low.law.B_star:.3g} .. {high.law.B_star:.3g}), alpha_B = " \
          f"{scan.law.alpha_B:.4f} ({low.law.alpha_B:.3g} .. {high.law.alpha_B:.3g}), 80% from resampled runs."
    yield from (f"{note}." for note in scan.notes)


def noise_table(noise, scan, law):
    """Ratios of every measured scale to the local dE_min/dS_min and to E_min/S_min."""
    L, N = noise["loss"].to_numpy(), noise["N"].to_numpy(float)
    against = {"joint fit local dE_min/dS_min": np.asarray(law.noise_scale(N, L), float),
               "joint fit E_min/S_min": np.asarray(law.critical_batch_size(L), float)}
    yield "| measured | points | G^T H G <= 0 | of | median ratio | quarter .. three quarters |"
    yield "|---|---|---|---|---|---|"
    for kind, label in KINDS.items():
        signal, spread = noise[f"{kind}_signal"].to_numpy(), noise[f"{kind}_noise"].to_numpy()
        for name, other in against.items():
            usable = (signal > 0) & np.isfinite(other)
            low, middle, high = np.quantile((spread / signal / other)[usable], [0.25, 0.5, 0.75])
            yield (f"| {label} | {len(signal)} | {np.mean(signal <= 0):.0%} | {name} | {middle:.2f} | "
                   f"{low:.2f} .. {high:.2f} |")
    own = noise[(noise["N"] == SCANNED) & (noise["loss"] <= scan.levels.max()) & (noise["loss"] >= scan.levels.min())]
    at = np.log(own["loss"])
    for name, values in (("local dE_min/dS_min", scan.noise_scale), ("E_min/S_min", scan.B_crit)):
        contour = np.exp(np.interp(at, np.log(scan.levels[::-1]), np.log(values[::-1])))
        ratios = {kind: (own[f"{kind}_noise"] / own[f"{kind}_signal"] / contour)[own[f"{kind}_signal"] > 0]
                  for kind in KINDS}
        yield (f"\nOver the contours' {name} at N = {SCANNED} ({len(own)} points): " + ", ".join(
            f"{KINDS[kind]} {np.median(ratio):.2f}" for kind, ratio in ratios.items()) + ".")


def score_table(tables, grid):
    yield "| test set | forecast | batch | median error | worst | mean signed | median of error / change |"
    yield "|---|---|---|---|---|---|---|"
    for name, own in tables.items():
        change = changes(own, grid, name)
        for rival in RIVALS:
            for B in ("all", *sorted(own["B"].unique())):
                here = np.ones(len(own), bool) if B == "all" else (own["B"] == B).to_numpy()
                error = np.log(own[rival] / own["truth"]).to_numpy()[here]
                share = np.abs(error / change[here])
                size, told = np.abs(error), np.isfinite(share)
                if not np.all(np.isnan(error)):
                    yield (f"| {name} | {rival} | {B} | {np.nanmedian(size):.2%} | {np.nanmax(size):.2%} | "
                           f"{np.nanmean(error):+.2%} | {f'{np.median(share[told]):.0%}' if told.any() else ''} |")
        inside = ((own["low"] <= own["truth"]) & (own["truth"] <= own["high"])).mean()
        yield f"| {name} | 80% interval of {OURS}: holds {inside:.0%} of the rows | | | | | |"


def progress_table(tables):
    yield "| test set | share of the run after warm-up | median error | worst |"
    yield "|---|---|---|---|"
    for name, own in tables.items():
        run = np.log(own["S"] / SCORED_FROM)
        progress = run / run.groupby(own["B"]).transform("max")
        error = np.abs(np.log(own[OURS] / own["truth"]))
        for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.01)):
            part = error[(progress >= low) & (progress < high)]
            yield f"| {name} | {low:.0%} .. {min(high, 1):.0%} of log steps | {part.median():.2%} | {part.max():.2%} |"


def moves(tables, grid, noise):
    """How far the target is from the grid's largest run, and how the noise scale moves along one run."""
    for name, own in tables.items():
        change = changes(own, grid, name)
        yield (f"{TITLES[name].capitalize()}: from N = {grid['N'].max()} to the target the loss changes by "
               f"{np.nanmax(change):.1%} to {np.nanmin(change):.1%} at the same step and batch size.\n")
    run = noise[noise["N"] == noise["N"].max()]
    scale = (run["gradient_noise"] / run["gradient_signal"]).round(-2).astype(int)
    yield f"tr Σ / |G|² along {run['run'].iloc[0]}: {', '.join(map(str, scale))}."


def remarks(whole, grid, target, forecast):
    """How far seeds differ, what a layer does, and how well the law's form could do."""
    deeper = whole[(whole["layers"] == 3) & (whole["S"] >= SCORED_FROM)]
    two = grid[grid["N"] == grid["N"].max()].merge(deeper, on=["B", "S"], suffixes=("", "_deeper"))
    shape = np.log(two["loss_deeper"] / two["loss"])
    sizes = [int(part["N"].iloc[0]) for part in (deeper, two)]
    yield (f"Three layers of width 80 (N = {sizes[0]}) against two of width 96 (N = {sizes[1]}): the "
           f"loss is {shape.mean():+.2%} on average after step {SCORED_FROM}, {shape.iloc[-1]:+.2%} at the last one.\n")
    seeds = grid[grid["S"] >= SCORED_FROM].pivot_table(index=["N", "B", "S"], columns="seed", values="loss").dropna()
    yield (f"Two seeds: one run's standard deviation is {np.log(seeds[0] / seeds[1]).std() / 2**0.5:.2%} "
           f"({len(seeds)} rows).")
    refit = fitted(OURS, pd.concat([grid, target]), "loss", *forecast["chosen"][OURS])
    after = target[target["S"] >= SCORED_FROM]
    miss = np.abs(np.log(predicted(refit, after) / after["loss"]))
    yield (f"\nFitted to the target too, the law still misses the target's rows by a median of {miss.median():.2%} and "
           f"{miss.max():.2%} at worst: so much of the error is its form.")


def after_the_fact(grid, target):
    """Other choices than the one that forecast, tried when the target was known."""
    yield "| steps left out | from N | floor E | steps counted from | median error | worst | median from step 1000 |"
    yield "|---|---|---|---|---|---|---|"
    for skipped, smallest, floor, start in ((400, 3000, True, 0), (400, 6000, True, 0), (400, 6000, False, 0),
                                            (600, 6000, True, 0), (600, 6000, False, 0), (400, 6000, True, 100)):
        used, seen = (table.assign(S=table["S"] - start)[table["S"] > start].drop(columns="D")
                      for table in (grid, target))
        seen = seen[seen["S"] >= SCORED_FROM - start]
        fit = fitted(OURS, used, "loss", skipped - start, smallest, floor=floor)
        miss, late = np.abs(np.log(predicted(fit, seen) / seen["loss"])), seen["S"] >= 1000 - start
        E = f"{fit.law.E:.2f}" if floor else "none"
        yield (f"| {skipped} | {smallest} | {E} | {start} | {miss.median():.2%} | {miss.max():.2%} | "
               f"{miss[late].median():.2%} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    whole, noise, target = (pd.read_csv(results / f"{name}.csv") for name in ("grid", "grid-noise", "target"))
    grid = whole[whole["layers"] == target["layers"].iloc[0]]  # another depth is another family
    forecast = json.loads((results / "forecast.json").read_text())
    law = laws.KaplanNSB(**forecast["sets"]["mix"]["constants"])
    scan = scan_of(grid)
    tables = {name: compared(target, forecast, name) for name in SETS}
    figures = {"contours": scan_figure(scan, law, noise), "forecast": forecast_figure(grid, target, forecast),
               "errors": error_figure(tables)}
    (results.parent / "figures").mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(results.parent / "figures" / f"{name}.png")
    tested = pd.DataFrame(forecast["back-tests"])
    tested = tested.groupby(["law", "skipped", "smallest"])[["median", "worst", "mean"]].mean()
    lines = ["# The ladder in numbers", "",
             "Written by `python benchmarks/ladder/report.py benchmarks/ladder/results`.", "",
             "## Contours", "", *scan_table(scan, law), "",
             "## Noise scales", "", *noise_table(noise, scan, law), "",
             "## Forecast of the target", "", *score_table(tables, grid), "", *progress_table(tables), "",
             *moves(tables, grid, noise), "",
             *remarks(whole, grid, target, forecast), "",
             "## After the fact", "", *after_the_fact(grid, target), "",
             "## Constants of the forecast", "", "```",
             *(f"{name}: {forecast['sets'][name]['constants']}" for name in SETS), "```", "",
             "## Back-tests before the forecast, means of three", "",
             "```", tested.to_string(float_format="%.4f"), "```", ""]
    write_atomically(results / "report.md", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
