"""Oracles: the plain estimator on stacked gradients; NumPy's weighted moments; the true scale in simulations, for
the intervals' coverage; a linear model's closed forms; Eqs 3.5 and 3.7 where H and Sigma are known, and real steps.
"""

import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxscale as jsc
from jaxscale import training

MESH = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
BATCH = 32


@pytest.mark.parametrize("module", ["accumulation", "averages", "gradients", "improvement", "transforms"])
def test_examples(module):
    assert doctest.testmod(importlib.import_module(f"jaxscale.training.{module}")).failed == 0


def stacked(count, seed=0, dtype=np.float32):
    """Gradients [count, ...] of two layers."""
    rng = np.random.default_rng(seed)
    shapes = {"up": {"w": (3, 4), "b": (4,)}, "down": (5, 2)}
    return jax.tree.map(lambda shape: jnp.asarray(1 + rng.standard_normal((count, *shape)), dtype), shapes,
                        is_leaf=lambda node: isinstance(node, tuple))


def params():
    return jax.tree.map(lambda leaf: leaf[0], stacked(1))


def same(found, expected, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol), found, expected)


# Micro-batches and devices


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_accumulated_is_stacked(depth):
    gradients = stacked(5)

    @jax.jit
    def accumulated(gradients):
        start = training.MicroBatches.of(params(), depth)
        return jax.lax.scan(lambda total, g: (total.add(g), None), start, gradients)[0].finish(BATCH)

    mean, noise = accumulated(gradients)
    same(mean, jax.tree.map(lambda leaf: leaf.mean(axis=0), gradients))
    same(noise, training.gradient_noise(gradients, BATCH, depth))


def test_layers_add_up_and_have_names():
    gradients = stacked(4)
    names = training.layer_names(params(), depth=1)
    found = dict(zip(names, zip(*training.gradient_noise(gradients, BATCH, depth=1), strict=True), strict=True))
    assert names == ("all", "down", "up") and training.layer_names(params(), 2) == ("all", "down", "up/b", "up/w")
    same(training.Noise(*found["up"]), training.gradient_noise(gradients["up"], BATCH))
    same(found["all"], tuple(np.add(found["up"], found["down"])))
    same(training.Noise(*found["all"]), training.gradient_noise(gradients, BATCH))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_norms_of_half_precision_are_summed_in_float32(dtype):
    tree = {"w": jnp.full((1000, 70), 3.0, dtype)}
    assert training.squared_norm(tree).dtype == jnp.float32
    assert float(training.squared_norm(tree)) == pytest.approx(630_000, rel=1e-6)  # beyond float16


def on_devices(function, gradients, **options):
    """`function` of each device's gradients [2, ...], under jit."""
    spec = PartitionSpec("data")
    return jax.jit(jax.shard_map(function, mesh=MESH, in_specs=spec, out_specs=PartitionSpec(), **options))(gradients)


@pytest.mark.parametrize("check_vma", [True, False])
def test_devices_are_micro_batches(check_vma):
    gradients = stacked(4)

    def accumulated(mine):
        total = training.MicroBatches.of(jax.tree.map(lambda leaf: leaf[0], mine), depth=1)
        total, _ = jax.lax.scan(lambda total, g: (total.add(g), None), total, mine)
        return total.across("data").finish(BATCH)

    mean, noise = on_devices(accumulated, gradients, check_vma=check_vma)
    same(mean, jax.tree.map(lambda leaf: leaf.mean(axis=0), gradients))
    same(noise, training.gradient_noise(gradients, BATCH, depth=1))

    def one_each(mine):
        own = jax.tree.map(lambda leaf: leaf.mean(axis=0), mine)
        return training.device_noise(own, jax.lax.pmean(own, "data"), 2 * BATCH, "data")

    halves = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]).mean(axis=1), gradients)
    same(on_devices(one_each, gradients, check_vma=check_vma), training.gradient_noise(halves, 2 * BATCH))


def test_one_number_is_reduced():
    def measured(own, mean):
        return training.device_noise(own, mean, BATCH, "data")

    text = jax.jit(jax.shard_map(measured, mesh=MESH, in_specs=(PartitionSpec("data"), PartitionSpec()),
                                 out_specs=PartitionSpec())).lower(stacked(2), params()).as_text()
    assert text.count("all_reduce") == 1 and "(tensor<f32>) -> tensor<f32>" in text.split("all_reduce")[1]


def test_a_summed_gradient_is_refused():
    def loss(w, x):
        return jnp.mean((x @ w) ** 2)

    def step(w, x, share):
        w = jax.lax.pcast(w, "data", to="varying") if share else w
        gradient = jax.grad(loss)(w, x)
        return training.device_noise(gradient, jax.lax.pmean(gradient, "data"), BATCH, "data")

    w, x = jnp.ones(3), jax.random.normal(jax.random.key(0), (8, 3))
    specs = {"mesh": MESH, "in_specs": (PartitionSpec(), PartitionSpec("data")), "out_specs": PartitionSpec()}
    found = jax.shard_map(lambda w, x: step(w, x, True), **specs)(w, x)
    same(found, training.gradient_noise(jnp.stack([jax.grad(loss)(w, x[:4]), jax.grad(loss)(w, x[4:])]), BATCH))
    with pytest.raises(jsc.InputError, match="pcast"):
        jax.shard_map(lambda w, x: step(w, x, False), **specs)(w, x)


def test_pmap():
    gradients = stacked(2)
    found = jax.pmap(lambda own: training.device_noise(own, jax.lax.pmean(own, "data"), BATCH, "data"),
                     axis_name="data")(gradients)
    same(jax.tree.map(lambda leaf: leaf[1], found), training.gradient_noise(gradients, BATCH))


def test_one_device_is_refused():
    with pytest.raises(jsc.InputError, match="one device"):
        jax.vmap(lambda g: training.device_noise(g, g, BATCH, "data"), axis_name="data")(jnp.ones((1, 3)))


def test_sharded_parameters_stay_sharded():
    gradients = stacked(3)
    place = NamedSharding(MESH, PartitionSpec(None, None, "data"))
    sharded = gradients | {"up": gradients["up"] | {"w": jax.device_put(gradients["up"]["w"], place)}}
    compiled = jax.jit(lambda g: training.gradient_noise(g, BATCH)).lower(sharded).compile()
    assert "all-gather" not in compiled.as_text()
    same(compiled(sharded), training.gradient_noise(gradients, BATCH))


# Averages


def test_average_is_numpys(rng):
    x, decay = rng.standard_normal((7, 2)) + [1.0, 5.0], 0.8
    average = training.NoiseAverage.of()
    for signal, noise in x:
        average = average.add(training.Noise(signal, noise), decay)
        average = average.add(training.Noise(np.nan, noise), decay)  # passed over
        average = average.add(training.Noise(signal, np.inf), decay)
    w = decay ** np.arange(6, -1, -1.0)
    mean = w @ x / w.sum()
    covariance = np.cov(x.T, aweights=w) * (w @ w) / w.sum() ** 2
    same(tuple(average.mean), tuple(mean))
    same(average.covariance, covariance[[0, 0, 1], [0, 1, 1]])
    assert float(average.count) == pytest.approx(w.sum() ** 2 / (w @ w), rel=1e-5)
    slope = np.array([-mean[1] / mean[0] ** 2, 1 / mean[0]])
    assert float(average.standard_error) == pytest.approx(np.sqrt(slope @ covariance @ slope), rel=1e-4)
    low, high = average.interval(0.8)
    for end in (low, high):  # where noise - end * signal is as far from zero as t allows
        across = np.array([-float(end), 1.0])
        t = abs(across @ mean) / np.sqrt(across @ covariance @ across)
        from scipy.stats import t as student

        assert t == pytest.approx(student.ppf(0.9, float(average.count) - 1), rel=3e-3)
    assert low < average.scale < high


def test_before_three_measurements_there_is_no_interval():
    average = training.NoiseAverage.of((2,))
    for _ in range(2):
        assert np.isnan(average.interval(0.8)).all()
        average = average.add(training.Noise(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])))
    assert np.isnan(training.NoiseAverage.of().scale) and np.isnan(average.interval(0.8)).all()
    np.testing.assert_allclose(average.scale, [3, 2])


def runs_of_estimates(steps, count, signal, trials=2000, dimensions=20):
    """Measurements [trials, steps] from `count` micro-batches whose noise is one per token, in 20 dimensions."""
    rng = np.random.default_rng(1)
    spread = BATCH**-0.5
    mean = rng.standard_normal((trials, steps, dimensions)) * spread / count**0.5
    mean[..., 0] += signal**0.5
    within = rng.chisquare(dimensions * (count - 1), (trials, steps)) * spread**2 / count  # mean |g - mean g|^2
    square = (mean**2).sum(axis=-1)
    return training.noise_of_norms(square + within, square, count, BATCH), dimensions / signal


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("steps, decay, count, signal", [(8, 0.99, 8, 1.0), (60, 0.9, 4, 0.3), (200, 0.99, 4, 0.05)])
def test_intervals_hold_the_true_scale_as_often_as_they_say(level, steps, decay, count, signal):
    measured, true = runs_of_estimates(steps, count, signal)

    def interval(noise):
        start = training.NoiseAverage.of()
        average = jax.lax.scan(lambda average, x: (average.add(x, decay), None), start, noise)[0]
        return average.interval(level), average.scale, average.standard_error

    (low, high), scale, error = jax.jit(jax.vmap(interval))(jax.tree.map(jnp.asarray, measured))
    covered = np.mean((low <= true) & (true <= high))
    # four standard errors of a share of 2,000
    assert abs(covered - level) < 4 * (level * (1 - level) / 2000) ** 0.5


def test_a_signal_that_may_be_zero_has_no_upper_end_and_one_below_zero_no_scale():
    def interval(signals):
        average = training.NoiseAverage.of()
        for signal in signals:
            average = average.add(training.Noise(signal, 10 + signal / 10))
        return np.asarray(average.interval(0.9))

    low, high = interval([1.0, -1.2, 0.9, -0.5, 0.3])
    assert 0 < low < 1e3 and high == np.inf
    assert np.isnan(interval([-1.0, -1.2, -0.9, -1.1, -1.3])).all()


@pytest.mark.parametrize("size", [1e-14, 1e14])
def test_small_and_large_gradients_in_float32(size):
    def interval(size):
        average = training.NoiseAverage.of()
        for signal, noise in [(7.0, 1024.0), (9.0, 1000.0), (5.0, 976.0), (7.5, 990.0)]:
            average = average.add(training.Noise(size * signal, size * noise))
        return average.interval(0.8)

    np.testing.assert_allclose(interval(size), interval(1.0), rtol=1e-4)


# Inside an optimiser


def test_updates_pass_through_and_the_state_is_found():
    plain, tracked = optax.adam(0.1), optax.chain(training.track_noise(decay=0.5, depth=1), optax.adam(0.1))
    gradients = stacked(6)

    @jax.jit
    def step(state, part):
        gradient = jax.tree.map(lambda leaf: leaf.mean(axis=0), part)
        expected, one = plain.update(gradient, state[0])
        updates, two = tracked.update(gradient, state[1], params(), noise=training.gradient_noise(part, BATCH, 1))
        return (one, two), (expected, updates)

    state = plain.init(params()), tracked.init(params())
    average = training.NoiseAverage.of((3,))
    for i in range(3):
        part = jax.tree.map(lambda leaf, i=i: leaf[2 * i:2 * i + 2], gradients)
        state, (expected, updates) = step(state, part)
        same(updates, expected)
        average = average.add(training.gradient_noise(part, BATCH, 1), 0.5)
    same(training.noise_average(state), average)
    untouched = tracked.update(params(), state[1], params())[1]
    same(training.noise_average(untouched), average)
    assert sum(leaf.size for leaf in jax.tree.leaves(training.noise_average(state))) == 17  # whatever the model's size
    leaves, shape = jax.tree.flatten(state)
    same(training.noise_average(jax.tree.unflatten(shape, [np.asarray(leaf) for leaf in leaves])), average)


def test_states_can_be_donated():
    optimiser = optax.chain(training.track_noise(), training.track_micro_batches(BATCH, 2), optax.adam(0.1))
    rule = training.batch_rule(jnp.sqrt, jsc.schedules.BatchSizes(2))
    state = optimiser.init(params()), rule.init(), training.MicroBatches.of(params())
    jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)(state)


@pytest.mark.parametrize("every", [1, 2])
def test_micro_batches_inside_an_optimiser_are_those_of_multi_steps(every):
    """Of 8 gradients the first three are measured, the next three unless `every` is 2, and two are held."""
    inner = optax.MultiSteps(optax.sgd(1.0), 3).gradient_transformation()
    optimiser = optax.chain(training.track_micro_batches(BATCH, 3, decay=0.5, every=every), inner)
    gradients = stacked(8)
    state, updates = jax.lax.scan(lambda state, g: optimiser.update(g, state, params())[::-1],
                                  optimiser.init(params()), gradients)
    average = training.NoiseAverage.of()
    for start in (0, 3):
        part = jax.tree.map(lambda leaf, start=start: leaf[start:start + 3], gradients)
        if start % (3 * every) == 0:
            average = average.add(training.gradient_noise(part, BATCH), 0.5)
        same(jax.tree.map(lambda leaf, start=start: leaf[start + 2], updates),
             jax.tree.map(lambda leaf: -leaf.mean(axis=0), part))
    same(training.noise_average(state), average, 1e-4)
    assert int(state[0].sum.count) == 2


@pytest.mark.parametrize("wrong, words", [
    (lambda: training.track_noise(decay=1.0), "decay must be"),
    (lambda: training.track_micro_batches(BATCH, 1), "2 or more, not 1"),
    (lambda: training.track_micro_batches(BATCH, 2, every=0), "every must be a whole number"),
    (lambda: training.noise_average(optax.adam(0.1).init(jnp.ones(2))), "holds 0 noise averages"),
    (lambda: training.best_step(jnp.sum, jnp.ones(2), jnp.ones((2, 2)), [0.1, 0.2]), "three or more"),
])
def test_mistakes_are_said(wrong, words):
    with pytest.raises(jsc.InputError, match=words):
        wrong()


# What a step gains


def test_gain_on_a_noisy_quadratic_is_eq_3_7(x64):
    """Pairs G + s and G - s make the mean over the noise exact; H is indefinite."""
    H, G = np.diag([3.0, 1.0, 0.2, -0.5]), np.array([0.3, -0.2, 0.1, 0.4])
    half = np.diag([1.0, 2.0, 3.0, 1.4])  # Sigma = half^2, of one token
    w = np.linalg.solve(H, G)
    B_noise = np.trace(H @ half @ half) / (G @ H @ G)
    for B in (8, 64, 1e9):
        offsets = 2 * half / B**0.5  # columns; over the 8 gradients the mean of s s^T is Sigma / B
        gradients = jnp.asarray(np.concatenate([G + offsets, G - offsets]))
        best = (G @ G) / (G @ H @ G) / (1 + B_noise / B)
        step = training.best_step(lambda w: w @ H @ w / 2, jnp.asarray(w), gradients, best * np.array([0.3, 0.7, 1.6]))
        assert float(step.rate) == pytest.approx(best, rel=1e-9)
        assert float(step.decrease) == pytest.approx((G @ G) ** 2 / (2 * G @ H @ G) / (1 + B_noise / B), rel=1e-9)


def test_linear_model_of_examples():
    """x of identity covariance: G = d = w - w*, H = 1, tr Sigma = P (|d|^2 + s^2) + |d|^2; real steps follow Eq 3.7."""
    P, noise, count = 8, 0.5, 16384
    keys = jax.random.split(jax.random.key(1), 3)
    x, offset = jax.random.normal(keys[0], (count, P)), 0.5 * jnp.ones(P)
    y = noise * jax.random.normal(keys[1], (count,))  # w* = 0
    gradients = jax.vmap(jax.grad(lambda w, x, y: (x @ w - y) ** 2 / 2), (None, 0, 0))(offset, x, y)
    square = float(offset @ offset)
    trace = P * (square + noise**2) + square
    simple = training.gradient_noise(gradients, 1)
    curved = training.curvature_noise(gradients[:512], 1, lambda v: v)
    assert float(simple.signal) == pytest.approx(square, rel=0.05)  # 2 sqrt(d Sigma d / count) / |d|^2 is 0.022
    assert float(simple.noise) == pytest.approx(trace, rel=0.05)
    assert float(curved.noise) == pytest.approx(trace, rel=0.3)
    for B in (4, 16, 64, 256):
        step = training.best_step(lambda w: w @ w / 2, offset, gradients.reshape(-1, B, P).mean(axis=1),
                                  jnp.array([0.05, 0.5, 1.0]))
        assert float(step.decrease) / (square / 2) == pytest.approx(1 / (1 + trace / square / B), rel=0.06)


def test_real_steps_follow_the_curvature_noise():
    """Eq 3.7 where no matrix is known: softmax regression before its optimum, sixteen-fold in batch size."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2048, 6)).astype(np.float32)
    y = (0.3 * x @ rng.standard_normal((6, 3)) + rng.gumbel(size=(2048, 3))).argmax(axis=1)

    def loss(w, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(x @ w, y).mean()

    def whole(w):
        return loss(w, x, y)

    @jax.jit
    def measured():
        w = jax.lax.fori_loop(0, 5, lambda i, w: w - 0.5 * jax.grad(whole)(w), jnp.zeros((6, 3)))
        gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(w, x[:, None], y[:, None])
        found = training.curvature_noise(gradients, 1, training.hessian_product(whole, w))
        scale = found.noise / (found.signal + found.noise / 2048)  # these examples are all there are: G is their mean
        means = [gradients.reshape(-1, B, 6, 3).mean(axis=1) for B in (16, 64, 256)]
        means.append(jnp.tile(gradients.mean(axis=0), (2, 1, 1)))
        return scale, [training.best_step(whole, w, part, jnp.geomspace(0.1, 5, 10)).decrease for part in means]

    scale, (*decreases, full) = measured()
    for B, decrease in zip((16, 64, 256), decreases, strict=True):
        assert float(decrease / full) == pytest.approx(1 / (1 + float(scale) / B), rel=0.12)  # not quite a quadratic
