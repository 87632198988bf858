"""Oracle: the same steps in a plain loop. Flax needs no adapter, and the train steps here are how to do without one.

Linen: forecast and noise average are fields of one's own TrainState, or `track_micro_batches` rides in its optimiser.
NNX: `optimizer.update` hands `noise=` on to `track_noise`, and the forecast is an `nnx.Variable`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxscale as jsc
from jaxscale import training

pytest.importorskip("flax", reason="Flax is not installed")

from flax import linen, nnx  # noqa: E402
from flax.training import train_state  # noqa: E402

MICRO, COUNT, STEPS = 8, 4, 6  # rows of a micro-batch, micro-batches of a step
ADAM = optax.adam(0.03)


@pytest.fixture(scope="module")
def forecaster():
    S, runs = np.geomspace(1, 100, 8), 4
    loss = jsc.laws.PowerLaw(x_c=2.0, alpha=0.3)(S) * np.exp(0.01 * np.random.default_rng(0).standard_normal((runs, 8)))
    table = jsc.Runs.from_columns({"S": np.tile(S, runs), "loss": loss.ravel()}, run=np.repeat(np.arange(runs), 8))
    fit = jsc.fit(jsc.laws.PowerLaw, table, x="S", objective=jsc.squares(), errors="sandwich")
    return training.forecaster(fit, B=MICRO * COUNT, warm_up=1)


@pytest.fixture(scope="module")
def batches():
    """Inputs and targets [steps, micro-batches, rows, ...] of a linear model."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((STEPS, COUNT, MICRO, 3)).astype(np.float32)
    return x, x @ np.float32([1.0, -2.0, 0.5]) + rng.standard_normal(x.shape[:-1]).astype(np.float32)


def loss_of(kernel, x, y):
    return jnp.mean(((x @ kernel)[..., 0] - y) ** 2)


@pytest.fixture(scope="module")
def plain(forecaster, batches):
    """Weights, noise average and forecast after a plain loop from weights of zero."""

    @jax.jit
    def step(carry, count, x, y):
        kernel, state, forecast = carry
        losses, gradients = jax.vmap(jax.value_and_grad(loss_of), in_axes=(None, 0, 0))(kernel, x, y)
        noise = training.gradient_noise(gradients, MICRO)
        updates, state = optimiser.update(gradients.mean(axis=0), state, kernel, noise=noise)
        return optax.apply_updates(kernel, updates), state, forecaster.update(forecast, count, None, losses.mean())

    optimiser = optax.chain(training.track_noise(), ADAM)
    kernel = jnp.zeros((3, 1))
    carry = kernel, optimiser.init(kernel), forecaster.init()
    for count, (x, y) in enumerate(zip(*batches, strict=True), start=1):
        carry = step(carry, count, x, y)
    return carry[0], training.noise_average(carry[1]), carry[2]


def same(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def linen_state(optimiser, kind=train_state.TrainState, **fields):
    model = linen.Dense(1, use_bias=False, kernel_init=linen.initializers.zeros_init())
    params = model.init(jax.random.key(0), jnp.zeros((1, 3)))["params"]
    return kind.create(apply_fn=model.apply, params=params, tx=optimiser, **fields)


def test_linen_with_fields_of_a_train_state(forecaster, batches, plain):
    class TrainState(train_state.TrainState):
        forecast: training.State
        noise: training.NoiseAverage

    @jax.jit
    def train_step(state, x, y):
        def add(total, batch):
            def loss(params):
                return jnp.mean((state.apply_fn({"params": params}, batch[0])[..., 0] - batch[1]) ** 2)

            value, gradient = jax.value_and_grad(loss)(state.params)
            return total.add(gradient), value

        total, losses = jax.lax.scan(add, training.MicroBatches.of(state.params), (x, y))
        gradient, noise = total.finish(MICRO)
        return state.apply_gradients(
            grads=gradient, noise=state.noise.add(noise),
            forecast=forecaster.update(state.forecast, state.step + 1, None, losses.mean()))

    state = linen_state(ADAM, TrainState, forecast=forecaster.init(), noise=training.NoiseAverage.of())
    for x, y in zip(*batches, strict=True):
        state = train_step(state, x, y)
    same((state.params["kernel"], state.noise, state.forecast), plain)
    assert isinstance(state.forecast, training.State) and isinstance(state.noise, training.NoiseAverage)


def test_linen_with_micro_batches_in_its_optimiser(batches, plain):
    accumulated = optax.MultiSteps(ADAM, every_k_schedule=COUNT).gradient_transformation()

    @jax.jit
    def micro_step(state, x, y):
        def loss(params):
            return jnp.mean((state.apply_fn({"params": params}, x)[..., 0] - y) ** 2)

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    state = linen_state(optax.chain(training.track_micro_batches(MICRO, COUNT), accumulated))
    for x, y in zip(*(part.reshape(-1, *part.shape[2:]) for part in batches), strict=True):
        state = micro_step(state, x, y)
    same((state.params["kernel"], training.noise_average(state.opt_state)), plain[:2])


def test_nnx(forecaster, batches, plain):
    @nnx.jit
    def train_step(model, optimizer, forecast, x, y):
        def loss(model, x, y):
            return jnp.mean((model(x)[..., 0] - y) ** 2)

        losses, gradients = nnx.vmap(nnx.value_and_grad(loss), in_axes=(None, 0, 0))(model, x, y)
        mean = jax.tree.map(lambda gradient: gradient.mean(axis=0), gradients)
        optimizer.update(model, mean, noise=training.gradient_noise(gradients, MICRO))
        forecast.set_value(forecaster.update(forecast.get_value(), optimizer.step[...], None, losses.mean()))

    model = nnx.Linear(3, 1, use_bias=False, kernel_init=nnx.initializers.zeros_init(), rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(training.track_noise(), ADAM), wrt=nnx.Param)
    forecast = nnx.Variable(forecaster.init())
    for x, y in zip(*batches, strict=True):
        train_step(model, optimizer, forecast, x, y)
    same(model.kernel[...], plain[0])
    same(forecast.get_value(), plain[2])
    same(training.noise_average(nnx.as_pure(optimizer.opt_state)), plain[1])
