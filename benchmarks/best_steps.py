"""One best step at many batch sizes: is its gain 1/(1 + B_noise/B) of the noiseless one's (Eqs 3.5 to 3.7)?

    python benchmarks/best_steps.py --corpus CORPUS     # 5 minutes on 2 busy cores

writes benchmarks/best_steps.md; CORPUS is what ladder/corpus.py wrote. The ladder's model of width 32 is trained by
Adam at 4,096 bytes, and stopped twice. From there plain gradient steps are tried, with gradients of text that it has
not seen, averaged from micro-batches of 512 bytes to B, at a ladder of rates about the best: `training.best_step` finds
the largest mean decrease of the loss of other, held-out text. The noise scales are measured on the same micro-batches,
curvature by the Hessian of the held-out loss.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from batch_schedules import ARMS, CONTEXT, HERE, SHAPE, UNIT, advance, begun, ladder, model
from measuring import circumstances
from scipy.optimize import curve_fit

from jaxscale import training

STOPS = (2_000_000, 6_000_000)  # bytes
MICRO_BATCHES, TEST_WINDOWS = 2048, 128
SIZES = tuple(UNIT * 2**k for k in range(8))  # bytes
MOST, BLOCKS = 32, 8  # gradients of a size; blocks of them, whose scatter is the standard error
RATES = np.geomspace(0.25, 4, 9)  # times the best rate by Eq 3.5


@jax.jit
def loss(params, windows):
    return ladder.test_loss(params, windows, shape=SHAPE, dtype=jnp.float32)


@jax.jit
def gradients_of(params, windows):
    """Gradients [micro-batches, ...]."""
    parts = windows.reshape(-1, model.MICRO, CONTEXT + 1)
    return jax.lax.map(lambda part: jax.grad(model.loss)(params, part, SHAPE.heads), parts)


@jax.jit
def noises(params, gradients, test):
    """Simple and Hessian noise; the latter from 16 groups of micro-batches."""
    groups = jax.tree.map(lambda g: g.reshape(16, -1, *g.shape[1:]).mean(axis=1), gradients)
    product = training.hessian_product(lambda params: loss(params, test), params)
    return (training.gradient_noise(gradients, UNIT),
            training.curvature_noise(groups, UNIT * MICRO_BATCHES // 16, product))


@partial(jax.jit, static_argnames="size")
def averaged(gradients, order, size):
    """Gradients of `size` bytes, each of other micro-batches."""
    count = min(MOST, MICRO_BATCHES * UNIT // size)
    return jax.tree.map(lambda g: g[order[:count * size // UNIT]].reshape(count, -1, *g.shape[1:]).mean(axis=1),
                        gradients)


best_step = jax.jit(lambda params, gradients, rates, test: training.best_step(
    lambda params: loss(params, test), params, gradients, rates))


def scan(params, gradients, test):
    """The lines of one table."""
    simple, curved = jax.tree.map(float, noises(params, gradients, test))
    full = jax.tree.map(lambda g: jnp.broadcast_to(g.mean(axis=0), (2, *g.shape[1:])), gradients)
    start = simple.signal / curved.signal
    most = best_step(params, full, start * RATES, test)
    order = jnp.asarray(np.random.default_rng(1).permutation(MICRO_BATCHES))
    yield (f"tr Σ/G² {simple.scale:,.0f} bytes, tr HΣ/GᵀHG {curved.scale:,.0f} bytes. The noiseless step gains "
           f"{float(most.decrease):.4f} nats at a rate of {float(most.rate):.3g}; by |G|²/GᵀHG it is {start:.3g}, and "
           f"the gain {start * simple.signal / 2:.4f}.")
    yield ""
    yield "| B, bytes | tried | gain, nats | over the noiseless | by tr HΣ/GᵀHG | by tr Σ/G² | rate over its |"
    yield "|---|---|---|---|---|---|---|"
    shares, errors = [], []
    for size in SIZES:
        batches = averaged(gradients, order, size)
        count = jax.tree.leaves(batches)[0].shape[0]
        rates = start / (1 + simple.scale / size) * RATES
        parts = jax.tree.map(lambda g, count=count: g.reshape(BLOCKS, count // BLOCKS, *g.shape[1:]), batches)
        steps = [best_step(params, jax.tree.map(lambda g, i=i: g[i], parts), rates, test) for i in range(BLOCKS)]
        gains = np.array([float(step.decrease) for step in steps])
        error = gains.std(ddof=1) / BLOCKS**0.5
        shares.append(gains.mean() / float(most.decrease))
        errors.append(error / float(most.decrease))
        rate = np.mean([float(step.rate) for step in steps]) / float(most.rate)
        yield (f"| {size:,} | {count} | {gains.mean():.5f} ± {error:.5f} | {shares[-1]:.3f} ± {errors[-1]:.3f} | "
               f"{1 / (1 + curved.scale / size):.3f} | {1 / (1 + simple.scale / size):.3f} | {rate:.3f} |")
    (scale,), (variance,) = curve_fit(lambda B, scale: 1 / (1 + scale / B), np.array(SIZES, float), shares, 4000.0,
                                      errors, absolute_sigma=True)
    chi = np.sum(((1 / (1 + scale / np.array(SIZES)) - shares) / errors) ** 2)
    yield ""
    yield (f"1/(1 + B_noise/B) through the shares: B_noise = {scale:,.0f} ± {variance[0]**0.5:,.0f} bytes, "
           f"{scale / curved.scale:.2f} of tr HΣ/GᵀHG, {scale / simple.scale:.2f} of tr Σ/G²; chi² {chi:.1f} for "
           f"{len(SIZES) - 1} degrees of freedom.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    corpus = parser.parse_args().corpus
    lines = ["# One best step at many batch sizes", "",
             "Written by `python benchmarks/best_steps.py`, which says what is done.", "", *circumstances(), ""]
    windows = np.random.default_rng(0).permutation(np.load(corpus / "train.npy"))  # neighbours are of one document
    test = jnp.asarray(np.load(corpus / "mix.npy")[:TEST_WINDOWS])
    unseen = jnp.asarray(windows[-MICRO_BATCHES * model.MICRO:])
    seen = jnp.asarray(windows[:-MICRO_BATCHES * model.MICRO])
    rule = ARMS["4,096"]
    carry, order = begun(rule, 0, seen)
    for stop in STOPS:
        carry = advance(carry, seen, order, stop, update=rule.update)
        params = carry[0]
        lines += [f"## After {stop / 1e6:.0f} MB, {int(carry[3]):,} steps: loss {float(loss(params, test)):.3f}", "",
                  *scan(params, gradients_of(params, unseen), test), ""]
        print("\n".join(lines), flush=True)
    (HERE / "best_steps.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
