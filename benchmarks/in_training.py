"""What measuring inside a training step costs, on the ladder's largest model, and what the ladder's noise scales say.

    python benchmarks/in_training.py [--rounds 40]

writes benchmarks/in_training.md. Steps with and without are timed in turn, in an order drawn for each round, and
reported are the ratios within blocks of four rounds: another process on the machine slows both. CPU time of all
threads stands beside the wall clock, as it knows nothing of waiting for a core. What is added is timed alone too, where
it finds the gradients in the cache. The same under eight forced host devices, in a process of its own.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import PartitionSpec
from measuring import circumstances

from jaxscale import laws, recipes, schedules, training

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "ladder"))

import model  # noqa: E402

SHAPE, CONTEXT, WINDOWS, RATE = model.Shape(2, 272, 17), 64, 64, 3e-3  # cpu.toml's target at 4,096 bytes
BLOCK = 4  # steps of which one measures, where not all do
BATCH = model.MICRO * CONTEXT  # bytes to a micro-batch, and to a device of eight
LAW = laws.KaplanNSB(**json.loads((HERE / "ladder/results/forecast.json").read_text())["sets"]["mix"]["constants"])
RULE = training.batch_rule(training.optimal_batch(LAW, SHAPE.parameters, 1e4), schedules.BatchSizes(512, powers=True))


def stepped(params, state, gradient, count):
    """model.step after the gradient."""
    direction, state = model.optimiser.update(gradient, state, params)
    factors = model._per_matrix(params)
    rate = RATE * jnp.minimum(1.0, (count + 1) / model.WARM_UP)
    return {name: value - rate * factors[name] * direction[name] for name, value in params.items()}, state


def empty(params, depth):
    """What is kept besides the optimiser's state: the averages, and the batch size."""
    return training.NoiseAverage.of((len(training.layer_names(params)),) if depth else ()), RULE.init()


def followed(kept, noise, loss):
    average, rule = kept
    return average.add(noise), RULE.update(rule, loss)


def plain(params, state, kept, windows, count):
    loss, gradient = model.gradients(params, windows, SHAPE.heads, jnp.float32)
    return *stepped(params, state, gradient, count), kept, loss


def measured(params, state, kept, windows, count, depth=0):
    """`plain` with the noise of its micro-batches."""
    def add(carry, part):
        total, loss = carry
        value, gradient = jax.value_and_grad(model.loss)(params, part, SHAPE.heads)
        return (total.add(gradient), loss + value), None

    parts = windows.reshape(-1, model.MICRO, CONTEXT + 1)
    (total, loss), _ = jax.lax.scan(add, (training.MicroBatches.of(params, depth), jnp.zeros(())), parts)
    gradient, noise = total.finish(BATCH)
    loss = loss / len(parts)
    return *stepped(params, state, gradient, count), followed(kept, noise, loss), loss


def on_devices(params, state, kept, windows, count, depth=None):
    """A data-parallel step; with a depth, the noise of its devices' gradients."""
    def part(params, windows):
        own = jax.lax.pcast(params, "data", to="varying")
        loss, gradient = jax.value_and_grad(model.loss)(own, windows, SHAPE.heads)
        loss, mean = jax.lax.pmean((loss, gradient), "data")
        return loss, mean, None if depth is None else training.device_noise(gradient, mean, BATCH, "data", depth)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    loss, gradient, noise = jax.shard_map(part, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("data")),
                                          out_specs=PartitionSpec())(params, windows)
    kept = kept if noise is None else followed(kept, noise, loss)
    return *stepped(params, state, gradient, count), kept, loss


def added(gradient, kept, loss, depth=0):
    """All that `measured` does besides `plain`, with one gradient in the place of eight; nothing is shared."""
    squares = [training.squared_norm(jax.lax.optimization_barrier(jax.tree.map(lambda g, i=i: g * (1 + i), gradient)),
                                     depth) for i in range(9)]
    noise = training.noise_of_norms(sum(squares[:8]) / 8, squares[8], 8, BATCH)
    return followed(kept, noise, loss)


def time_them(steps, rounds):
    """Wall and CPU seconds [rounds] of each step, in turn; of several functions to a step, each has its round."""
    windows = jnp.asarray(np.random.default_rng(0).integers(0, 256, (WINDOWS, CONTEXT + 1)), jnp.uint8)
    runs = {}
    for name, (functions, depth) in steps.items():
        params = model.init(jax.random.key(0), SHAPE, CONTEXT)
        carry = params, model.optimiser.init(params), empty(params, depth)
        compiled = {function: jax.jit(function, donate_argnums=(0, 1, 2)) for function in functions}
        for each in compiled.values():
            *carry, _ = each(*carry, windows, 0)
        runs[name] = [[compiled[function] for function in functions], carry]
    times = {name: np.empty((rounds, 2)) for name in steps}
    order = list(steps)
    for i in range(rounds):
        random.Random(i).shuffle(order)
        for name in order:
            compiled, carry = runs[name]
            step = compiled[i % len(compiled)]
            begun = time.perf_counter(), time.process_time()
            *carry, loss = jax.block_until_ready(step(*carry, windows, i + 1))
            times[name][i] = time.perf_counter() - begun[0], time.process_time() - begun[1]
            runs[name][1] = carry
    return {name: values.tolist() for name, values in times.items()}


def time_added(rounds):
    """CPU seconds of what is added, alone: the median, for each depth; and nine gradients made on the way."""
    params = model.init(jax.random.key(0), SHAPE, CONTEXT)
    found = {}
    for depth in (0, 1):
        compiled = jax.jit(partial(added, depth=depth))
        kept, loss = empty(params, depth), jnp.float32(2.0)
        seconds = []
        for _ in range(5 * rounds):
            begun = time.process_time()
            jax.block_until_ready(compiled(params, kept, loss))
            seconds.append(time.process_time() - begun)
        found[depth] = float(np.median(seconds[5:]))
    return found


def time_transformation(every, rounds):
    """CPU seconds that `track_micro_batches` takes of one gradient, on average."""
    params = model.init(jax.random.key(0), SHAPE, CONTEXT)
    tracker = training.track_micro_batches(BATCH, 8, every=every)
    update = jax.jit(lambda gradient, state: tracker.update(gradient, state)[1], donate_argnums=1)
    state = update(params, tracker.init(params))
    begun = time.process_time()
    for _ in range(80 * rounds):
        state = update(params, state)
    jax.block_until_ready(state)
    return (time.process_time() - begun) / (80 * rounds)


def table(times, base):
    yield "| step | wall, median | x without | CPU time, median | x without |"
    yield "|---|---|---|---|---|"
    blocks = {name: np.reshape(values, (-1, BLOCK, 2)).mean(axis=1) for name, values in times.items()}
    reference = blocks[base]
    for name, values in blocks.items():
        cells = []
        for i in range(2):
            low, middle, high = np.quantile(values[:, i] / reference[:, i], (0.25, 0.5, 0.75))
            cells += [f"{np.median(values[:, i]) * 1e3:.0f} ms",
                      "" if name == base else f"{middle:.4f} ({low:.3f} .. {high:.3f})"]
        yield f"| {name} | {' | '.join(cells)} |"


def scales():
    """The ladder's measured noise scales, through `recipes.noise_trend`, beside the joint and the contour fits."""
    points = pd.read_csv(HERE / "ladder/results/grid-noise.csv")
    yield "| scale | points | measured / dE_min/dS_min | scatter of its log | 1/alpha_B | ratio x B_star | scatter |"
    yield "|---|---|---|---|---|---|---|"
    for kind, name in (("gradient", "tr Σ / |G|²"), ("hessian", "tr HΣ / GᵀHG")):
        part = points.assign(B_noise=points[f"{kind}_noise"] / points[f"{kind}_signal"])
        small = part["N"] == 6144
        for chosen, words in ((part, "all"), (part[small], "N = 6,144"), (part[~small], "larger")):
            found = recipes.noise_trend(chosen[["run", "N", "loss", "B_noise"]], LAW)
            law, error = found.fit.law, found.fit.standard_errors.k
            yield (f"| {name} | {words}, {len(found.N)} | {found.ratio:.3f} | {found.spread:.2f} | "
                   f"{law.k:.2f} ± {error:.2f} | {law.B_star:.3g} | {found.scatter:.2f} |")
    yield f"| L(N, S, B) as forecast | | | | {1 / LAW.alpha_B:.2f} | {LAW.B_star:.3g} | |"
    yield ("\n1/alpha_B of -1 is the bound of the fit: there the scales do not rise as the loss falls. The contour "
           "scan's is 12.1 (80% 8.7 to 16.1, `ladder/results/report.md`). Losses and tr Σ / |G|² in one fit, the "
           "latter weighed by its scatter, rows from step 600 on:\n")
    grid = pd.read_csv(HERE / "ladder/results/grid.csv").merge(
        points.assign(B_noise=points["gradient_noise"] / points["gradient_signal"])[["run", "S", "B_noise"]],
        on=["run", "S"], how="left")
    chosen = grid[(grid["layers"] == 2) & (grid["S"] >= 600) & (grid["N"] >= 6000)]
    yield f"```\n{recipes.joint_with_noise(chosen[['run', 'N', 'S', 'B', 'loss', 'B_noise']])}\n```"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="a multiple of four")
    parser.add_argument("--devices", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.devices:
        steps = {"without": ((on_devices,), 0), "noise scale and batch": ((partial(on_devices, depth=0),), 0)}
        print(json.dumps(time_them(steps, asked.rounds)))
        return
    head = circumstances()
    steps = {"without": ((plain,), 0), "noise scale and batch": ((measured,), 0),
             "the same, by layer": ((partial(measured, depth=1),), 1),
             "the same, every fourth step": ((measured, *[plain] * (BLOCK - 1)), 0)}
    here = time_them(steps, asked.rounds)
    alone = time_added(asked.rounds)
    transformed = {every: time_transformation(every, asked.rounds // 4) for every in (1, 10)}
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, __file__, "--devices", "--rounds", str(asked.rounds)], env=flags, check=True,
                          capture_output=True, text=True)
    there = json.loads(done.stdout.splitlines()[-1])
    step = np.median(np.asarray(here["without"])[:, 1])
    lines = [
        "# Inside a training step", "", "Written by `python benchmarks/in_training.py`, which says what is timed.", "",
        *head, f"- The ladder's largest model, N = {SHAPE.parameters:,}, {WINDOWS * CONTEXT:,} bytes a step; "
        f"{asked.rounds} rounds; ratios within blocks of four, medians and quartiles.", "",
        "## Eight micro-batches on one device", "", *table(here, "without"), "",
        "What is added, alone: " + ", ".join(
            f"{seconds * 1e3:.1f} ms of CPU time{' by layer' if depth else ''}, {seconds / step:.2%} of a step"
            for depth, seconds in alone.items()) + ".", "",
        "`track_micro_batches`, which holds a sum of its own, takes of each of the eight " + ", ".join(
            f"{seconds * 1e3:.2f} ms of CPU time with every={every}" for every, seconds in transformed.items())
        + f": {8 * transformed[1] / step:.2%} and {8 * transformed[10] / step:.2%} of a step.", "",
        "## Eight forced host devices, one micro-batch each", "", *table(there, "without"), "",
        "## The ladder's noise scales and the law of its losses", "", *scales(), "",
    ]
    (HERE / "in_training.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
