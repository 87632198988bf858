"""Are forecasts of a run's loss as sure as they say, and are alarms as rare? On simulated runs and on real ones.

    python benchmarks/forecasting.py         # about 5 minutes on 2 cores; writes benchmarks/forecasting.md

Simulated: 1,000 runs a row from the forecaster's own model, with the constants of a fit of the ladder drawn from their
covariance, an offset and a drift a run, batch noise with Student's t tails, and a decay that bends. Real: each size of
the ladder left out of the fit that forecasts it; each run of Gemstones (constant learning rate) left out; the runs of
MultiPowerLaw (cosine, and a learning rate that drops at once) from a fit of its constant ones, of the same sizes. Those
two tables are not in the package.
"""

import dataclasses
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxscale as jsc
from jaxscale import laws, training

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
RUNS, STEPS, N, B, NOISE = 1000, 2000, 1e6, 16384.0, 0.02
SHARES = (0.0, 0.01, 0.1, 0.3)
STEP = np.arange(1.0, STEPS + 1)
SCHEDULES = {
    "constant": np.ones(STEPS),
    "cosine": 0.55 + 0.45 * np.cos(np.pi * STEP / STEPS),
    "WSD": np.where(STEP > 0.8 * STEPS, 1 - 0.9 * (STEP - 0.8 * STEPS) / (0.2 * STEPS), 1.0),
}
DRIFTS = {
    "none": 0 * STEP,
    "2% above from the middle on": 0.02 * (STEP >= STEPS / 2),
    "2% above, reached over a tenth of the run": 0.02 * np.clip((STEP - STEPS / 2) / (0.1 * STEPS), 0, 1),
    "5% above from the middle on": 0.05 * (STEP >= STEPS / 2),
    "divergence: 2% more every 1% of the run": np.maximum(STEP - STEPS / 2, 0) * 2 / STEPS,
}
scan = jax.jit(jax.vmap(training.Forecaster.scan, in_axes=(None, 0, None, None, 0, None)))
at = jax.jit(jax.vmap(training.Forecaster.predict, in_axes=(None, 0, None, None)))
alarms = jax.jit(jax.vmap(training.Forecaster.alarm, in_axes=(None, 0)))
scan_one, at_one, alarm_one = map(jax.jit, (training.Forecaster.scan, training.Forecaster.predict,
                                            training.Forecaster.alarm))
BOTH = 2 * 1.2815515655446004  # standard deviations in an interval of 80%


def begun(forecaster):
    """States [runs] of which only the peak learning rate is known."""
    state = forecaster.init()._replace(peak=jnp.ones(()), lr=jnp.ones(()))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (RUNS, *x.shape)), state)


@jax.jit
def laws_of(prior, white):
    """ln losses [runs, steps] of laws at white [runs, k]."""
    return jax.vmap(lambda x: jnp.log(prior.law(x)(N, jnp.asarray(STEP), B)))(white)


def simulated(forecaster, lr, seed=0):
    """Losses [runs, steps], and ln loss without the batches' noise."""
    rng, wander, t = np.random.default_rng(seed), forecaster.wander, np.log(STEP)
    clean = np.asarray(laws_of(forecaster.prior, rng.standard_normal((RUNS, forecaster.prior.factor.shape[1]))))
    drift = rng.standard_normal(RUNS)
    wandered = [drift]
    for keep in np.exp(-np.diff(t) / wander.length):
        drift = keep * drift + np.sqrt(1 - keep**2) * rng.standard_normal(RUNS)
        wandered.append(drift)
    gain, annealing = np.maximum(0.03 + 0.03 * rng.standard_normal((RUNS, 1)), 0), 1 - lr
    clean = clean + wander.offset * rng.standard_normal((RUNS, 1)) + wander.drift * np.stack(wandered, axis=1)
    clean -= gain * (1.3 * annealing - 0.3 * annealing**2)
    return np.exp(clean + NOISE * rng.standard_t(5, clean.shape)), clean


def percent(x):
    return f"{100 * x:.1f}%"


def simulations(fit):
    base = training.forecaster(fit, N=N, B=B, warm_up=10)
    cover = ["| drift of the fit's runs | schedule | " + " | ".join(
        f"{'before the run' if share == 0 else f'after {share:.0%}'}" for share in SHARES) + " |", "|---" * 6 + "|"]
    rates = ["| drift of the fit's runs | schedule | what happens | alarms | of those above | median delay |",
             "|---" * 6 + "|"]
    for label, wander in ((f"{base.wander.drift:.3f} (the ladder)", base.wander),
                          ("0.006", base.wander._replace(drift=0.006))):
        forecaster = dataclasses.replace(base, wander=wander)
        for schedule, lr in SCHEDULES.items():
            losses, clean = simulated(forecaster, lr)
            cells = []
            state, begin = begun(forecaster), 0
            for share in SHARES:
                end = int(share * STEPS)
                if end:
                    state = scan(forecaster, state, STEP[begin:end], None, losses[:, begin:end], lr[begin:end])
                    begin = end
                _, low, high = at(forecaster, state, STEP[-1], lr[-1])
                cells.append(percent(np.mean((np.log(low) < clean[:, -1]) & (clean[:, -1] < np.log(high)))))
            cover.append(f"| {label} | {schedule} | " + " | ".join(cells) + " |")
            for name, drift in DRIFTS.items():
                if name != "none" and schedule != "constant":
                    continue
                said = alarms(forecaster, scan(forecaster, begun(forecaster), STEP, None, losses * np.exp(drift), lr))
                raised = np.asarray(said.raised)
                above = percent(np.mean(np.asarray(said.above)[raised])) if raised.any() else ""
                late = np.median(np.asarray(said.step)[raised]) / STEPS - 0.5 if raised.any() else np.nan
                delay = "" if name == "none" else percent(late)
                rates.append(f"| {label} | {schedule} | {name} | {percent(raised.mean())} | {above} | {delay} |")
                print(rates[-1], flush=True)
            print(cover[-1], flush=True)
    return cover, rates


ROWS = 512


def padded(x):
    return np.concatenate([x, np.full(ROWS - len(x), np.nan)])


def judged(cases):
    """Coverage and errors by share of the run, and alarms, of (forecaster, steps, tokens, losses, lr) of real runs."""
    z, error, width, raised = ({share: [] for share in SHARES} for _ in range(4))
    for forecaster, S, D, loss, lr in cases:
        lr = np.ones_like(S) if lr is None else lr
        for share in SHARES:
            state = scan_one(forecaster, forecaster.init(), padded(S), padded(D),
                             padded(np.where(S <= share * S[-1], loss, np.nan)), padded(lr))
            mean, low, high = (float(x) for x in at_one(forecaster, state, S[-1], lr[-1] if share else None))
            off = np.log(loss[-1] / mean)
            z[share].append(off / (np.log(high / low) / BOTH))
            error[share].append(abs(off))
            width[share].append(np.log(high / low))
        said = alarm_one(forecaster, scan_one(forecaster, forecaster.init(), padded(S), padded(D), padded(loss),
                                              padded(lr)))
        raised[0.0].append(bool(said.raised))
    cells = [f"{percent(np.mean(np.abs(z[share]) < BOTH / 2))}, {100 * np.median(error[share]):.2f}%, "
             f"{100 * np.median(width[share]):.1f}%" for share in SHARES]
    return " | ".join(cells), f"{sum(raised[0.0])} of {len(raised[0.0])}"


def ladder(Law, skipped):
    table = jsc.datasets.ladder()
    for size in np.unique(table["N"]):
        runs = jsc.read_runs(table[table["N"] != size]).after_warm_up(steps=skipped - 1)
        fit = jsc.fit(Law, runs, objective=jsc.squares(), weights="run", errors="sandwich")
        for _, run in table[table["N"] == size].groupby("run"):
            S, D, loss = (run[name].to_numpy(float) for name in ("S", "D", "loss"))
            yield training.forecaster(fit, N=size, B=D[0] / S[0], warm_up=skipped, noise=1e-3), S, D, loss, None


def gemstones():
    table = pd.read_csv(DATA / "gemstones" / "trajectories_dense.csv").drop_duplicates(["run_name", "step"])
    table = table.sort_values(["run_name", "step"])
    for name, run in table.groupby("run_name"):
        others = table[table["run_name"] != name].rename(columns={"final_loss": "loss", "run_name": "run"})
        runs = jsc.read_runs(others[["run", "N", "D", "loss"]]).thin(24)
        fit = jsc.fit(laws.Chinchilla, runs, objective=jsc.squares(), weights="run", errors="sandwich")
        S, D, loss = (run[column].to_numpy(float)[-ROWS:] for column in ("step", "D", "final_loss"))
        yield training.forecaster(fit, N=run["N"].iloc[0], B=D[0] / S[0], noise=3e-3), S, D, loss, None


def multi_power_law():
    table = pd.read_csv(DATA / "multi_power_law" / "loss_curves.csv").rename(columns={"model_M": "N", "step": "S"})
    table["run"] = table["N"].astype(str) + table["schedule"]
    constant = table[table["schedule"].str.startswith("constant")]
    runs = jsc.read_runs(constant[["run", "N", "S", "loss"]]).thin(24)
    fit = jsc.fit(laws.KaplanNS, runs, objective=jsc.squares(), free=("E",), errors="sandwich",
                  prior={"alpha_N": (0.1, 0.5)})
    for _, run in table[~table["run"].isin(constant["run"])].groupby("run"):  # the learning rate falls
        S, loss, lr = (run[column].to_numpy(float)[-ROWS:] for column in ("S", "loss", "lr"))
        yield training.forecaster(fit, N=run["N"].iloc[0], B=1e6, noise=3e-3), S, S * 1e6, loss, lr


def main():
    warnings.simplefilter("ignore", UserWarning)
    started = time.time()
    runs = jsc.read_runs(jsc.datasets.ladder().query("role == 'fit'")).after_warm_up(steps=399)
    fit = jsc.fit(laws.KaplanNSB, runs, objective=jsc.squares(), errors="sandwich")
    cover, rates = simulations(fit)
    real = ["| runs | forecast by | " + " | ".join("before the run" if share == 0 else f"after {share:.0%}"
                                                   for share in SHARES) + " | alarms |", "|---" * 7 + "|"]
    studies = [("ladder, its size left out", "L(N, S, B) after 400 steps", lambda: ladder(laws.KaplanNSB, 400)),
               ("ladder, its size left out", "Chinchilla after 400 steps", lambda: ladder(laws.Chinchilla, 400))]
    if DATA.exists():
        studies += [("Gemstones, the run left out", "Chinchilla", gemstones),
                    ("MultiPowerLaw: cosine, and a drop", "L(N, S) of the constant runs", multi_power_law)]
    for what, by, cases in studies:
        cells, raised = judged(cases())
        real.append(f"| {what} | {by} | {cells} | {raised} |")
        print(real[-1], flush=True)
    lines = ["# Forecasts of runs: coverage and alarms", "",
             "Written by `python benchmarks/forecasting.py`; what it does is in its first lines.", "",
             f"## Simulated runs: how often the 80% interval holds the last loss ({RUNS} runs; +-1.3% is one standard "
             "error)", "", *cover, "", "## Simulated runs: alarms, promised to be false in at most 5% of runs", "",
             *rates, "", "## Real runs: share of 80% intervals that hold the last loss, median error, median width", "",
             *real, "", f"jaxscale {jsc.__version__}, jax {jax.__version__}, {jax.devices()[0].platform}, "
             f"{time.time() - started:.0f} s."]
    (HERE / "forecasting.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
