"""Do batch sizes that change along a run save steps? By the law, and by real runs of the ladder's model of width 32.

    python benchmarks/batch_schedules.py --corpus CORPUS --work WORK     # 40 minutes on 2 busy cores, once

writes benchmarks/batch_schedules.md; CORPUS is what ladder/corpus.py wrote, WORK keeps finished runs. All arms share
seeds: the initial parameters and the order of the text. The batch size is a whole number of micro-batches of 512 bytes
and changes inside one compiled step. The learning rate is the ladder's rule at the batch size of the step,
exp(a) N^n B^b (b = 0.47), with its warm-up of 100 steps. Runs end below the lowest level of the held-out loss.

A schedule is held against constant batch sizes to the same loss: S_min/S + E_min/D is 1 for all of these (Eq 3.10), and
r = 1/(S_min/S + E_min/D) says how many times the steps and the bytes of one of them a schedule takes. S_min and E_min
are those of S = S_min + E_min/B through the constant runs of the same seed (`recipes.contour`). What a run takes from
loss to loss adds up, so the same is said from the first level on, where the warm-up is over.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from measuring import circumstances

from jaxscale import laws, recipes, schedules, training

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "ladder"))

import ladder  # noqa: E402
import model  # noqa: E402

SHAPE, CONTEXT, TEST_WINDOWS = model.Shape(2, 32, 2), 64, 1024
UNIT, MOST = model.MICRO * CONTEXT, 2**16  # bytes
LEVELS = (2.35, 2.25, 2.2, 2.15)  # held-out loss, nats a byte
SEEDS, CONSTANT = range(3), (4096, 8192, 16384, 32768)
SPACING, FIRST = 1.07, 500_000  # of the records, in bytes
AROUND = 0.35  # in log bytes: the rows that say when a run reached a level
N = SHAPE.parameters
LAW = laws.KaplanNSB(**json.loads((HERE / "ladder/results/forecast.json").read_text())["sets"]["mix"]["constants"])
RATES = json.loads((HERE / "ladder/results/rates.json").read_text())


# c^2 of the schedule that spends, by the law, the bytes of the smallest constant B until the last level.
PRICE = schedules.optimal(LAW, N, LEVELS[-1], tokens=float(
    LAW.minimum_tokens(N, LEVELS[-1]) + CONSTANT[0] * LAW.minimum_steps(N, LEVELS[-1]))).c ** 2
POLICIES = {"c √B_noise": training.optimal_batch(LAW, N, PRICE), "B_crit(L(t))": LAW.critical_batch_size}
ARMS = {f"{B:,}": training.batch_rule(lambda loss, B=B: B + 0 * loss, schedules.BatchSizes(UNIT, least=B, most=B))
        for B in CONSTANT} | {
    name: training.batch_rule(policy, schedules.BatchSizes(UNIT, most=MOST), decay=0.95, patience=5)
    for name, policy in POLICIES.items()}


def rate_of(B):
    return jnp.exp(RATES["a"]) * N ** RATES["n"] * B ** RATES["b"]


def step(carry, windows, order, update):
    """One step at the rule's batch size, which stays in `windows[order]` where the last step left off."""
    params, state, rule, count, done = carry
    micro = rule.batch // UNIT

    def add(i, total):
        part = windows[jax.lax.dynamic_slice_in_dim(order, done // CONTEXT + model.MICRO * i, model.MICRO)]
        return jax.tree.map(jnp.add, total, jax.value_and_grad(model.loss)(params, part, SHAPE.heads))

    zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    loss, gradient = jax.tree.map(lambda x: x / micro, jax.lax.fori_loop(0, micro, add, zero))
    direction, state = model.optimiser.update(gradient, state, params)
    rate = rate_of(rule.batch.astype(jnp.float32)) * jnp.minimum(1.0, (count + 1) / model.WARM_UP)
    factors = model._per_matrix(params)
    params = {name: value - rate * factors[name] * direction[name] for name, value in params.items()}
    return params, state, update(rule, loss), count + 1, done + rule.batch


@partial(jax.jit, static_argnames="update", donate_argnums=0)
def advance(carry, windows, order, bytes_, *, update):
    """Train until so many bytes are read."""
    return jax.lax.while_loop(lambda carry: carry[-1] < bytes_, lambda carry: step(carry, windows, order, update),
                              carry)


def begun(rule, seed, windows):
    """What a run carries before its first step, and the order of its text."""
    order = jnp.asarray(np.random.default_rng(seed).permutation(len(windows)).astype(np.int32))
    params = model.init(jax.random.key(seed), SHAPE, CONTEXT)
    return (params, model.optimiser.init(params), rule.init(), jnp.int32(0), jnp.int32(0)), order


def train(rule, seed, train_windows, test_windows):
    """The rows (S, D, B, held-out loss) of one run, until it is well below the last level."""
    carry, order = begun(rule, seed, train_windows)
    rows, bytes_ = [], FIRST
    while len(rows) < 6 or np.mean([row["loss"] for row in rows[-6:]]) > LEVELS[-1] * 0.995:
        B = int(carry[2].batch)
        carry = advance(carry, train_windows, order, bytes_, update=rule.update)
        loss = ladder.test_loss(carry[0], test_windows, shape=SHAPE, dtype=jnp.float32)
        rows.append({"S": int(carry[3]), "D": int(carry[4]), "B": B, "loss": float(loss)})
        bytes_ = int(bytes_ * SPACING)
        if rows[-1]["D"] > 0.9 * len(train_windows) * CONTEXT:
            raise SystemExit(f"seed {seed} has read the corpus and is at {loss:.3f} nats, above {LEVELS[-1]}")
    return rows


def trained(corpus, work):
    """The rows of all runs, those that WORK has not yet trained first."""
    windows = jnp.asarray(np.load(corpus / "train.npy"))
    test = jnp.asarray(np.load(corpus / "mix.npy")[:TEST_WINDOWS])
    parts = []
    for seed in SEEDS:
        for name, rule in ARMS.items():
            path = work / f"{name.replace(' ', '_').replace('/', '')}-seed{seed}.csv"
            if not path.exists():
                started = time.time()
                pd.DataFrame(train(rule, seed, windows, test)).to_csv(path, index=False)
                print(f"{path.stem}: {time.time() - started:.0f} s", flush=True)
            parts.append(pd.read_csv(path).assign(arm=name, seed=seed))
    return pd.concat(parts, ignore_index=True)


def reached(run, level):
    """Steps and bytes at which a run has come to a level: a parabola in log bytes through the rows about it."""
    ln_D, ln_loss = np.log(run["D"].to_numpy(float)), np.log(run["loss"].to_numpy())
    first = ln_D[np.argmax(ln_loss < np.log(level))]
    near = np.abs(ln_D - first) < AROUND
    curve = np.polyfit(ln_D[near] - first, ln_loss[near] - np.log(level), 2)
    roots = np.roots(curve)
    place = first + roots.real[np.argmin(np.abs(roots))]
    return np.exp(np.interp(place, ln_D, np.log(run["S"].to_numpy(float)))), np.exp(place)


def measured(table):
    """A row for each arm, seed and level: S and D, from the start and since the first level, and r (see above)."""
    found = pd.DataFrame([
        {"arm": arm, "seed": seed, "level": level, **dict(zip(("S", "D"), reached(run, level), strict=True))}
        for (arm, seed), run in table.groupby(["arm", "seed"]) for level in LEVELS])
    first = found[found["level"] == LEVELS[0]].set_index(["arm", "seed"])[["S", "D"]]
    since = found[found["level"] != LEVELS[0]].copy()
    since[["S", "D"]] -= first.loc[list(zip(since["arm"], since["seed"], strict=True))].to_numpy()
    found = pd.concat([found.assign(since="the start"), since.assign(since=f"{LEVELS[0]}")], ignore_index=True)
    constants = {f"{B:,}" for B in CONSTANT}
    for _, part in found.groupby(["since", "seed", "level"]):
        own = part[part["arm"].isin(constants)]
        S_min, E_min = recipes.contour(own["D"] / own["S"], own["S"])
        found.loc[part.index, "r"] = 1 / (S_min / part["S"] + E_min / part["D"])
    return found


def by_the_law(arm, level):
    """S and D of an arm from the start."""
    policy = POLICIES.get(arm) or (lambda loss: float(arm.replace(",", "")) + 0 * loss)
    return (float(x) for x in schedules.spent(LAW, N, level, policy))


def steps_alike(arm):
    """By the law, the steps of an arm over those of the constant batch size that takes its bytes to the last level."""
    S, D = by_the_law(arm, LEVELS[-1])
    S_min, E_min = float(LAW.minimum_steps(N, LEVELS[-1])), float(LAW.minimum_tokens(N, LEVELS[-1]))
    return S / (S_min + S_min * E_min / (D - E_min))


def report(table):
    """The tables of the page."""
    found = measured(table)
    yield "| loss | batch size | steps: law | steps: runs | bytes: law | bytes: runs |"
    yield "|---|---|---|---|---|---|"
    whole = found[found["since"] == "the start"]
    for level in LEVELS:
        for arm in ARMS:
            part = whole[(whole["arm"] == arm) & (whole["level"] == level)]
            S, D = by_the_law(arm, level)
            yield (f"| {level} | {arm} | {S:,.0f} | {part['S'].mean():,.0f} ± {part['S'].std():.0f} | {D / 1e6:.2f}M | "
                   f"{part['D'].mean() / 1e6:.2f}M ± {part['D'].std() / 1e6:.2f}M |")
    yield "\n± is the standard deviation of one run.\n"
    yield "| from | to loss | schedule | r by the law | r of the runs | by seed |"
    yield "|---|---|---|---|---|---|"
    least = {level: np.array([LAW.minimum_steps(N, level), LAW.minimum_tokens(N, level)]) for level in LEVELS}
    for since, level in found[["since", "level"]].drop_duplicates().itertuples(index=False):
        for arm in POLICIES:
            part = found[(found["since"] == since) & (found["level"] == level) & (found["arm"] == arm)]
            taken, fewest = np.array([*by_the_law(arm, level)]), least[level]
            if since != "the start":
                taken, fewest = taken - [*by_the_law(arm, LEVELS[0])], fewest - least[LEVELS[0]]
            yield (f"| {since} | {level} | {arm} | {1 / np.sum(fewest / taken):.3f} | "
                   f"{part['r'].mean():.3f} ± {part['r'].std() / len(part) ** 0.5:.3f} | "
                   f"{', '.join(f'{x:.3f}' for x in part['r'])} |")
    constants = found[found["arm"].isin([f"{B:,}" for B in CONSTANT]) & (found["since"] == "the start")]
    freedom = len(constants) * (1 - 2 / len(CONSTANT))  # two constants through the runs of a seed, at each level
    yield (f"\n± is the standard error over {len(SEEDS)} seeds; a constant run's own r scatters about 1 by "
           f"{(np.sum(np.log(constants['r']) ** 2) / freedom) ** 0.5:.1%}. At equal bytes the law has c √B_noise take "
           f"{steps_alike('c √B_noise'):.1%} of a constant's steps to {LEVELS[-1]}, and B_crit(L(t)) "
           f"{steps_alike('B_crit(L(t))'):.1%}.")
    yield ("What the schedules save, they save before the first level. The likely reason, not tried apart, is the "
           "warm-up, of which the law knows nothing: a constant B reads 100 B bytes in it, a schedule few. From there "
           "on the law expects r = 1, and the runs show nothing else that is beyond doubt.\n")
    last = table.groupby(["arm", "seed"])["B"].last().groupby("arm").mean()
    yield "Batch sizes at the end: " + ", ".join(f"{arm}: {last[arm]:,.0f}" for arm in POLICIES) + "."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    head = circumstances()
    lines = ["# Batch sizes that change along a run", "",
             "Written by `python benchmarks/batch_schedules.py`, which says what is done.", "", *head,
             f"- N = {N:,}, {len(SEEDS)} seeds; c = {PRICE ** 0.5:.3g} √bytes; the law: {LAW}.", "",
             *report(trained(asked.corpus, asked.work)), ""]
    (HERE / "batch_schedules.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
