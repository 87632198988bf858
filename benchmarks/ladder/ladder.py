"""Train a ladder of small models from a config, as many at once as there are workers.

    python benchmarks/ladder/corpus.py CORPUS
    python benchmarks/ladder/ladder.py benchmarks/ladder/cpu.toml search --corpus CORPUS --work WORK
    python benchmarks/ladder/ladder.py benchmarks/ladder/cpu.toml grid   --corpus CORPUS --work WORK
    python benchmarks/ladder/ladder.py benchmarks/ladder/cpu.toml target --corpus CORPUS --work WORK

`search` tries learning rates and writes their rule to WORK/rates.json; `grid` and `target` use it. Killed at any
moment and started again, a stage goes on from the last checkpoint (every 30 s) of each run. Finished runs are gathered
in WORK/<stage>.csv and, where the config asks for noise scales, WORK/<stage>-noise.csv.
"""

import argparse
import fcntl
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import model
import numpy as np
import pandas as pd

from jaxscale import training
from jaxscale.files import write_atomically

CHECKPOINT_SECONDS = 30
NOISES = ("gradient", "hessian", "gauss_newton")
NOISE_MICRO_BATCHES, NOISE_GROUPS, NOISE_POINTS, CURVATURE_WINDOWS = 128, 16, 8, 256


@dataclass(frozen=True)
class Run:
    """One training run: what it is called and everything that decides its numbers."""

    stage: str
    shape: model.Shape
    batch: int  # bytes a step
    steps: int
    seed: int
    rate: float
    noise: bool = False

    @property
    def name(self):
        parts = (self.stage, f"N{self.shape.parameters}", f"B{self.batch}", f"seed{self.seed}")
        return "-".join(parts + ((f"rate{self.rate:g}",) if self.stage == "search" else ()))

    def file(self, config):
        """The name of its files: of other settings, another one, so that nothing trained under them is taken for it."""
        settings = {key: value for key, value in config.items() if not isinstance(value, dict | list)}
        return f"{self.name}-{hashlib.sha256(repr((self, settings)).encode()).hexdigest()[:8]}"

    def records(self, density):
        """The steps at which the test losses are measured."""
        count = round(density * np.log10(self.steps / 10)) + 1
        return np.unique(np.round(np.geomspace(10, self.steps, count))).astype(int)

    def noise_records(self, density):
        after = [step for step in self.records(density) if step >= 2 * model.WARM_UP]
        return {after[round(place)] for place in np.linspace(0, len(after) - 1, NOISE_POINTS)} if self.noise else set()

    def flops(self, config, context):
        """Training, and a third of it a byte for the test losses."""
        tested = len(self.records(config["records"])) * (config["mix_windows"] + config["prose_windows"]) * context / 3
        return self.shape.flops(context) * (self.batch * self.steps + tested)


def runs_of(config, stage, rule):
    """The runs of a stage, the longest first. `rule` gives the learning rate of N and B."""
    shapes = {name: model.Shape(*shape) for name, shape in config["shapes"].items()}
    measured = {pair for block in config.get("noise", [])
                for pair in itertools.product(block["shapes"], block["batches"])}
    runs = [
        Run(stage, shapes[name], batch, steps, seed, rate or rule(shapes[name].parameters, batch),
            seed == 0 and stage == "grid" and (name, batch) in measured)
        for block in config[stage]
        for name, (batch, steps) in itertools.product(block["shapes"], block["batches"])
        for seed, rate in itertools.product(block.get("seeds", [0]), block.get("rates", [None]))
    ]
    return sorted(runs, key=lambda run: -run.shape.flops(64) * run.batch * run.steps)


def groups_of(runs, together):
    """Runs that differ in seed and rate alone, at most `together` of them, are trained side by side."""
    alike = {}
    for run in runs:
        alike.setdefault((run.shape, run.batch, run.steps, run.noise), []).append(run)
    return [tuple(runs[i : i + together]) for runs in alike.values() for i in range(0, len(runs), together)]


# --- training -------------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("shape", "rows", "dtype", "micro"), donate_argnums=(0, 1))
def advance(params, state, windows, order, rates, start, stop, *, shape, rows, dtype, micro):
    """Train every lane from step `start` to `stop`: its new state, and the mean training loss on the way."""

    def one(carry, chosen, rate, count):
        params, state, total = carry
        params, state, value = model.step(params, state, windows[chosen], count, rate, shape.heads, dtype, micro)
        return params, state, total + value

    def body(count, carry):
        chosen = jax.lax.dynamic_slice_in_dim(order, count * rows, rows, axis=1)
        if order.shape[0] == 1:  # one lane: no batched matrix products, which are slower on a CPU
            carry = jax.tree.map(lambda value: value[0], carry)
            return jax.tree.map(lambda value: value[None], one(carry, chosen[0], rates[0], count))
        return jax.vmap(one, in_axes=(0, 0, 0, None))(carry, chosen, rates, count)

    params, state, total = jax.lax.fori_loop(start, stop, body, (params, state, jnp.zeros(order.shape[0])))
    return params, state, total / (stop - start)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def test_loss(params, windows, *, shape, dtype):
    """The mean loss of one lane over a test set, 64 windows at a time."""
    parts = windows.reshape(-1, 64, windows.shape[1])
    return jax.lax.map(lambda part: model.loss(params, part, shape.heads, dtype), parts).mean()


@partial(jax.jit, static_argnames=("shape", "micro"))
def noise_scales(params, windows, other, *, shape, micro):
    """(simple, Hessian, Gauss-Newton) noise of one lane, from micro-batches of `windows`; curvature from `other`."""
    loss = partial(model.loss, heads=shape.heads)
    parts = windows.reshape(-1, micro, windows.shape[1])
    gradients = jax.lax.map(lambda part: jax.grad(loss)(params, part), parts)
    batch = micro * (windows.shape[1] - 1)
    grouped = jax.tree.map(lambda value: value.reshape(NOISE_GROUPS, -1, *value.shape[1:]).mean(axis=1), gradients)
    size = batch * parts.shape[0] // NOISE_GROUPS

    def over(build):
        """The product with a matrix averaged over the other windows, 32 at a time."""
        pieces = other.reshape(-1, 32, other.shape[1])
        return lambda vector: jax.tree.map(
            lambda value: value.mean(axis=0), jax.lax.map(lambda piece: build(piece)(vector), pieces)
        )

    def gauss_newton(piece):
        tokens = piece.astype(jnp.int32)
        return training.gauss_newton_product(
            lambda params: model.logits(params, tokens[:, :-1], shape.heads),
            lambda scores: model.cross_entropy(scores, tokens[:, 1:]), params)

    return (
        training.gradient_noise(gradients, batch),
        training.curvature_noise(
            grouped, size, over(lambda piece: training.hessian_product(lambda p: loss(p, piece), params))),
        training.curvature_noise(grouped, size, over(gauss_newton)),
    )


def save(path, *, step, tree, rows, noise):
    """A checkpoint: the leaves of the state and what was recorded so far."""
    leaves = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    record = json.dumps({"step": int(step), "rows": rows, "noise": noise})
    temporary = path.with_suffix(".part")
    with open(temporary, "wb") as file:
        np.savez(file, record=record, **leaves)
    temporary.replace(path)


def restore(path, tree):
    """What `save` wrote, in the shape of `tree`."""
    with np.load(path) as file:
        leaves, structure = jax.tree.flatten(tree)
        tree = jax.tree.unflatten(structure, [jnp.asarray(file[f"leaf{i}"]) for i in range(len(leaves))])
        record = json.loads(str(file["record"]))
    return record["step"], tree, record["rows"], record["noise"]


def train(group, config, tables, work):
    """Train the runs of a group to their end and write their rows."""
    first = group[0]
    shape, dtype, micro = first.shape, jnp.dtype(config["dtype"]), config["micro"]
    windows = tables["train"]
    context = windows.shape[1] - 1
    rows_a_step = first.batch // context
    if first.batch % context or rows_a_step % min(micro, rows_a_step):
        raise SystemExit(f"{first.name}: a batch must be whole windows of {context} bytes, {micro} of them to a "
                         "micro-batch or fewer in all")
    reserve = NOISE_MICRO_BATCHES * micro + CURVATURE_WINDOWS  # never trained on: the noise scales are measured there
    if first.steps * rows_a_step + reserve > len(windows):
        raise SystemExit(f"{first.name} reads {first.steps * rows_a_step} windows, the corpus has {len(windows)}")
    permuted = [np.random.default_rng(run.seed).permutation(len(windows)).astype(np.int32) for run in group]
    order = jnp.asarray(np.stack([p[: first.steps * rows_a_step] for p in permuted]))
    rates = jnp.asarray([run.rate for run in group], jnp.float32)
    keys = jnp.stack([jax.random.key(run.seed) for run in group])
    params = jax.vmap(lambda key: model.init(key, shape, context))(keys)
    tree = (params, jax.vmap(model.optimiser.init)(params), jnp.zeros(len(group)))
    step, rows, noise = 0, [], []
    path = work / "checkpoints" / f"{first.file(config)}.npz"
    if path.exists():
        step, tree, rows, noise = restore(path, tree)
    records = first.records(config["records"])
    noise_records = first.noise_records(config["records"])
    piece = max(1, int(10 * 3e10 / (shape.flops(context) * first.batch)))  # steps in about ten seconds
    saved = time.time()
    parent = os.getppid()
    while step < first.steps:
        if os.getppid() != parent:
            raise SystemExit("the process that started this one is gone")
        record = int(records[np.searchsorted(records, step, side="right")])
        start, stop = step, min(record, step + piece)
        params, state, mean = advance(tree[0], tree[1], windows, order, rates, start, stop,
                                      shape=shape, rows=rows_a_step, dtype=dtype, micro=micro)
        since = rows[-1]["S"] if rows else 0  # training losses are averaged since the last record
        tree = (params, state, (tree[2] * (start - since) + mean * (stop - start)) / (stop - since))
        step = stop
        if step == record:
            for lane, run in enumerate(group):
                own = jax.tree.map(lambda value, lane=lane: value[lane], params)
                losses = {name: round(float(test_loss(own, tables[name], shape=shape, dtype=dtype)), 5)
                          for name in ("mix", "prose")}
                rows.append({"run": run.name, "N": shape.parameters, "B": run.batch, "S": step, "D": step * run.batch,
                             "loss": losses["mix"], "loss_prose": losses["prose"],
                             "loss_train": round(float(tree[2][lane]), 5), "layers": shape.layers, "width": shape.width,
                             "heads": shape.heads, "seed": run.seed, "rate": float(f"{run.rate:.4g}")})
                if step in noise_records:
                    kept = permuted[lane][-reserve:]
                    found = noise_scales(own, windows[kept[CURVATURE_WINDOWS:]], windows[kept[:CURVATURE_WINDOWS]],
                                         shape=shape, micro=micro)
                    noise.append(rows[-1] | {f"{name}_{part}": float(f"{getattr(kind, part):.6g}")
                                             for name, kind in zip(NOISES, found, strict=True)
                                             for part in ("signal", "noise")})
        if time.time() - saved > CHECKPOINT_SECONDS or step == first.steps:
            save(path, step=step, tree=tree, rows=rows, noise=noise)
            saved = time.time()
    write_atomically(work / "runs" / f"{first.file(config)}.csv", pd.DataFrame(rows).to_csv(index=False))
    if noise:
        write_atomically(work / "noise" / f"{first.file(config)}.csv", pd.DataFrame(noise).to_csv(index=False))
    path.unlink()


def work_through(groups, config, corpus, work):
    """Train every group that is neither finished nor in the hands of another worker."""
    counts = {"mix": config["mix_windows"], "prose": config["prose_windows"], "train": None}
    tables = {name: jnp.asarray(np.load(corpus / f"{name}.npy")[:count]) for name, count in counts.items()}
    for group in groups:
        with open(work / "locks" / group[0].file(config), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the system when its owner dies
            except BlockingIOError:
                continue
            if not finished(group, config, work):
                train(group, config, tables, work)


# --- the stages -----------------------------------------------------------------------------------------------------


def learning_rates(table):
    """log rate = a + n log N + b log B through the best rates of the search, each from a parabola in log rate."""
    last = table.loc[table.groupby("run")["S"].idxmax()]
    best = []
    for (N, B), part in last.groupby(["N", "B"]):
        part = part.sort_values("rate")
        lowest = part["loss"].to_numpy().argmin()
        near = part.iloc[max(lowest - 2, 0) : lowest + 3]
        curve = np.polyfit(np.log(near["rate"]), near["loss"], 2)
        rate = np.exp(np.clip(-curve[1] / (2 * curve[0]), *np.log(near["rate"].iloc[[0, -1]])))
        best.append({"N": int(N), "B": int(B), "rate": float(rate if curve[0] > 0 else part["rate"].iloc[lowest]),
                     "tried": dict(zip(part["rate"], part["loss"], strict=True))})
    design = np.array([[1.0, np.log(row["N"]), np.log(row["B"])] for row in best])
    powers, _, rank, _ = np.linalg.lstsq(design, np.log([row["rate"] for row in best]), rcond=None)
    if rank < 3:
        raise SystemExit(f"a rule of N and B wants a search at three pairs of them or more, not all on a line; the "
                         f"config has {len(best)}: add blocks to [[search]]")
    return {"rule": "rate = exp(a) N^n B^b", "a": powers[0], "n": powers[1], "b": powers[2], "best": best}


def finished(group, config, work):
    return (work / "runs" / f"{group[0].file(config)}.csv").exists()


def gather(stage, groups, config, work):
    """All finished rows of a stage as one table each for losses and noise scales."""
    for kind, suffix in (("runs", ""), ("noise", "-noise")):
        files = [work / kind / f"{group[0].file(config)}.csv" for group in groups]
        parts = [pd.read_csv(file) for file in files if file.exists()]
        if parts:
            write_atomically(work / f"{stage}{suffix}.csv", pd.concat(parts).to_csv(index=False))


def follow(workers, groups, config, work, stage):
    """Report finished groups, the rate and the time left, until the workers end."""
    cost = {group: sum(run.flops(config, 64) for run in group) for group in groups}
    left = {group for group in groups if not finished(group, config, work)}
    print(f"{len(groups) - len(left)} of {len(groups)} finished before", flush=True)
    total, started = sum(cost[group] for group in left), time.time()
    while left:
        ended = all(worker.poll() is not None for worker in workers)
        for group in sorted(left, key=lambda group: -cost[group]):
            if finished(group, config, work):
                left.discard(group)
                gather(stage, groups, config, work)
                done, seconds = total - sum(cost[group] for group in left), time.time() - started
                print(f"{group[0].name}: done; {done / seconds / 1e9:.0f} GFLOP/s, about "
                      f"{(total - done) / done * seconds / 60:.0f} min left", flush=True)
        if ended and left:
            raise SystemExit(f"the workers stopped with {len(left)} to go; what they said is above, or else another "
                             "process works on those: start the stage again when it has ended")
        time.sleep(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("stage", choices=("search", "grid", "target"))
    parser.add_argument("--corpus", type=Path, required=True, help="what corpus.py wrote")
    parser.add_argument("--work", type=Path, required=True, help="where checkpoints and results go")
    parser.add_argument("--workers", type=int, default=1, help="processes, one CPU core each when more than one")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    config = tomllib.loads(asked.config.read_text())
    for name in ("train", "mix", "prose"):
        if not (asked.corpus / f"{name}.npy").exists():
            raise SystemExit(f"{asked.corpus} holds no {name}.npy: run corpus.py {asked.corpus} first")
    if asked.stage != "search" and not (asked.work / "rates.json").exists():
        raise SystemExit(f"{asked.work} holds no rates.json: run the search stage first")
    if any(config[f"{name}_windows"] % 64 for name in ("mix", "prose")):
        raise SystemExit("mix_windows and prose_windows must be multiples of 64")
    if asked.workers > len(os.sched_getaffinity(0)):
        raise SystemExit(f"--workers must be at most the {len(os.sched_getaffinity(0))} cores that may be used")
    for folder in ("runs", "noise", "locks", "checkpoints"):
        (asked.work / folder).mkdir(parents=True, exist_ok=True)
    rule = None
    if asked.stage != "search":
        powers = json.loads((asked.work / "rates.json").read_text())

        def rule(N, B):
            return float(np.exp(powers["a"]) * N ** powers["n"] * B ** powers["b"])

    runs = runs_of(config, asked.stage, rule)
    groups = groups_of(runs, config["together"])
    if asked.worker is not None:
        return work_through(groups, config, asked.corpus, asked.work)
    print(f"{len(runs)} runs, {sum(run.flops(config, 64) for run in runs):.3g} FLOPs", flush=True)
    command = [sys.executable, __file__, asked.config, asked.stage, "--corpus", asked.corpus, "--work", asked.work]
    environment = dict(os.environ)
    if asked.workers > 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    workers = []
    for index in range(asked.workers):
        workers.append(subprocess.Popen([*map(str, command), "--worker", str(index)], env=environment))
        if asked.workers > 1:
            os.sched_setaffinity(workers[-1].pid, {sorted(os.sched_getaffinity(0))[index]})
    try:
        follow(workers, groups, config, asked.work, asked.stage)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; start the stage again to go on") from None
    finally:
        for worker in workers:
            worker.terminate()
        gather(asked.stage, groups, config, asked.work)
    if asked.stage == "search":
        rates = learning_rates(pd.read_csv(asked.work / "search.csv"))
        write_atomically(asked.work / "rates.json", json.dumps(rates, indent=1) + "\n")
        print(json.dumps(rates, indent=1))


if __name__ == "__main__":
    main()
