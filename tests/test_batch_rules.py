"""Oracles: schedules.optimal (its rows, steps and tokens), brute force over the allowed sizes, and rules by hand."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxscale as jsc
from jaxscale import laws, schedules, training

C4, N, LOSS = laws.published["su2024-c4"], 1e9, 2.7
SIZES = schedules.BatchSizes(unit=2048)


@pytest.fixture(scope="module")
def ahead():
    return schedules.optimal(C4, N, LOSS, tokens=5e10)


def test_examples():
    from jaxscale.training import batches

    assert doctest.testmod(batches).failed == 0


@pytest.mark.parametrize("sizes", [dict(unit=96), dict(unit=2048, powers=True), dict(unit=8, least=100, most=999),
                                   dict(unit=64, powers=True, least=300, most=5000)], ids=str)
def test_nearest_is_that_of_least_cost_by_brute_force(sizes, rng):
    """B + price B_noise / B, least at B = wanted, over all sizes allowed; the same in NumPy and in float32 JAX."""
    wanted = np.exp(rng.uniform(np.log(10), np.log(1e5), 200)).astype(np.float32).astype(np.float64)
    unit = sizes["unit"]
    allowed = unit * (2.0 ** np.arange(20) if sizes.get("powers") else np.arange(1, 3000))
    allowed = allowed[(allowed >= sizes.get("least", 0)) & (allowed <= sizes.get("most", np.inf))]
    expected = allowed[np.argmin(allowed / wanted[:, None] + wanted[:, None] / allowed, axis=1)]
    found = schedules.BatchSizes(**sizes)
    np.testing.assert_array_equal(found.nearest(wanted), expected)
    np.testing.assert_array_equal(jax.jit(found.nearest)(jnp.asarray(wanted)), expected)
    assert found.first == allowed[0] and (found.nearest(allowed) == allowed).all()


def test_the_loss_gives_the_batch_sizes_of_the_optimal_schedule(ahead):
    """A row's batch size is a mean over the row, between those at its two ends."""
    batch = training.optimal_batch(C4, N, ahead.c**2)
    ends = np.asarray(batch(jnp.asarray(ahead.loss)), np.float64)
    assert (ends[:-1] * (1 - 1e-5) < ahead.B[1:]).all() and (ahead.B[1:] < ends[1:] * (1 + 1e-5)).all()


@pytest.mark.parametrize("policy", ["loss", "noise"])
def test_a_run_by_the_rule_takes_the_optimal_steps_and_tokens(policy, ahead):
    """The local rule, one step after another, the batch from what the run itself sees (here without its noise)."""
    price = ahead.c**2
    by_loss = training.batch_rule(training.optimal_batch(C4, N, price), SIZES, decay=0.9, patience=3)
    by_noise = training.batch_rule(training.optimal_batch_of_noise(price), SIZES, decay=0.0, patience=3)
    rule = by_loss if policy == "loss" else by_noise

    with jax.enable_x64(True):
        def loss_of(minimum_steps):
            return C4.minimum_loss(N) + (C4.S_c / minimum_steps) ** C4.alpha_S

        def step(carry):
            minimum_steps, S, D, state = carry
            loss = loss_of(minimum_steps)
            noise = C4.noise_scale(N, loss)
            state = rule.update(state, loss if policy == "loss" else noise)
            gained = 1 / (1 + noise / state.batch)
            return minimum_steps + gained, S + 1, D + state.batch, state

        start = jnp.float64(1.0), jnp.float64(0), jnp.float64(0), rule.init()
        _, S, D, state = jax.jit(lambda: jax.lax.while_loop(lambda carry: loss_of(carry[0]) > LOSS, step, start))()
    assert float(S) == pytest.approx(ahead.S[-1], rel=3e-3)
    assert float(D) == pytest.approx(ahead.D[-1], rel=3e-3)
    assert int(state.batch) % 2048 == 0


def test_the_schedule_by_the_step_is_the_table(ahead):
    rounded = ahead.rounded(unit=2**17, powers=True)
    batch = jax.jit(jax.vmap(training.batch_schedule(rounded)))(jnp.arange(int(rounded.S[-1])))
    assert batch.dtype == jnp.int32
    np.testing.assert_array_equal(np.cumsum(np.asarray(batch, np.float64))[rounded.S.astype(int) - 1], rounded.D)
    ideal = np.asarray(jax.vmap(training.batch_schedule(ahead))(jnp.arange(int(ahead.S[-1]))), np.float64)
    assert ideal.sum() == pytest.approx(ahead.D[-1], rel=1e-4)


def follow(rule, measured):
    """The batch size after each measurement, in one compiled scan."""
    def step(state, value):
        state = rule.update(state, value)
        return state, state.batch

    return np.asarray(jax.lax.scan(step, rule.init(), jnp.asarray(measured, jnp.float32))[1])


def test_it_grows_only_after_patience_and_to_the_smallest_asked_for():
    rule = training.batch_rule(lambda wanted: wanted, schedules.BatchSizes(unit=100), decay=0.0, patience=3)
    found = follow(rule, [500, 500, 90, 500, 300, np.nan, 400, 100, 700, 700, 600, -np.inf, np.inf, 1e3, 1e3, 1e3])
    assert found.tolist() == [100] * 6 + [300] * 4 + [600] * 5 + [1000]


def test_noise_of_the_loss_makes_it_neither_shrink_nor_run_ahead(rng):
    """Losses of a run with 5% noise: the batch of the rule is within one power of two of the noiseless one, below."""
    steps = np.arange(1, 4000)
    loss = 2.5 + (300 / steps) ** 0.6
    policy, sizes = C4.critical_batch_size, schedules.BatchSizes(unit=1024, powers=True)
    found = follow(training.batch_rule(policy, sizes), loss * (1 + 0.05 * rng.standard_normal(len(loss))))
    ideal = np.maximum.accumulate(sizes.nearest(np.asarray(policy(loss), np.float64)))
    assert (np.diff(found) >= 0).all()
    assert ((found == ideal) | (found == ideal / 2))[200:].all() and (found == ideal).mean() > 0.8


def test_the_state_is_of_numbers_alone_and_sizes_stay_in_int32():
    rule = training.batch_rule(lambda wanted: wanted, schedules.BatchSizes(unit=1000), decay=0.0, patience=1)
    state = rule.update(rule.init(), 1e30)
    assert 2.1e9 < int(state.batch) < 2**31 and int(state.batch) % 1000 == 0
    assert all(leaf.shape == () for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("wrong, words", [
    (lambda: training.batch_rule(jnp.sqrt, SIZES, patience=0), "patience must be"),
    (lambda: training.batch_rule(jnp.sqrt, SIZES, decay=1.5), "decay must be"),
    (lambda: training.batch_rule(jnp.sqrt, 2048), "sizes must be"),
    (lambda: training.optimal_batch(C4, N, -1.0), "step_price must be"),
    (lambda: training.optimal_batch_of_noise(0), "step_price must be"),
    (lambda: schedules.BatchSizes(unit=100, least=101, most=150), "none from 101 to 150"),
])
def test_mistakes_are_said(wrong, words):
    with pytest.raises(jsc.InputError, match=words):
        wrong()
