"""Oracle: automatic differentiation of the law itself, by which laws that are no sums of powers are fitted."""

import dataclasses

import jax
import numpy as np
import pytest
from user_laws import BatchChinchilla, OverTrained, StepsToLoss

import jaxscale as jsc
from jaxscale import laws
from jaxscale.problem import look
from jaxscale.task import make_task

SUMS = {laws.Chinchilla: {}, laws.KaplanNS: {}, laws.KaplanN: {}, OverTrained: {}, laws.PowerLaw: {"x": "N"},
        StepsToLoss: {}}
OTHERS = (laws.KaplanND, laws.KaplanNSB, BatchChinchilla)


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    N, B, S = (np.exp(rng.uniform(*np.log(ends), 64)) for ends in ((1e6, 1e9), (1e5, 1e7), (1e3, 1e5)))
    loss = 1.7 + (2e3 / N) ** 0.3 + (1e4 / (B * S)) ** 0.25 + 0.01 * rng.standard_normal(64)
    return jsc.Runs.from_columns({"N": N, "B": B, "S": S, "D": B * S, "loss": loss})


@pytest.mark.parametrize("objective", [jsc.huber(1e-2, overestimate=3.0), jsc.squares(log=False)], ids=str)
@pytest.mark.parametrize("Law", SUMS, ids=lambda Law: Law.__name__)
def test_closed_form_is_the_derivative(Law, objective, runs):
    means = {"alpha": 0.4, "alpha_N": 0.4, "eta": -0.3}
    prior = {name: (mean, 0.2) for name, mean in means.items() if name in Law.constants}
    task = dataclasses.replace(make_task(Law, runs, objective=objective, prior=prior, **SUMS[Law]), phi=1e-3)
    with jax.enable_x64(True):
        problem, u = task.problem(), task.starts(1)[0] + 0.05
        assert problem.power_sum is not None
        closed = look(problem, u, task.weights)
        # The map from coordinates to constants is kept; what is tested is the closed form of the rows.
        oracles = {"value": problem.value, "gradient": jax.grad(problem.value), "hessian": jax.hessian(problem.value)}
        for name, oracle in oracles.items():
            expected = np.asarray(jax.jit(oracle)(u, task.weights))
            # Sums of 64 rows of either sign, each good to a few units of rounding.
            np.testing.assert_allclose(getattr(closed, name), expected, rtol=1e-9,
                                       atol=1e-10 * np.max(np.abs(expected)), err_msg=name)


@pytest.mark.parametrize("Law", OTHERS, ids=lambda Law: Law.__name__)
def test_others_are_left_to_differentiation(Law, runs):
    with jax.enable_x64(True):
        assert make_task(Law, runs).problem().power_sum is None


def test_a_held_scale_or_a_freed_floor_is_left_to_differentiation(runs):
    with jax.enable_x64(True):
        assert make_task(laws.Chinchilla, runs, fix={"A": 400.0}).problem().power_sum is None
        assert make_task(laws.KaplanNS, runs, free="E").problem().power_sum is None
        assert make_task(laws.Chinchilla, runs, tie=[("alpha", "beta")]).problem().power_sum is not None


def test_it_is_seen_from_32_bits_too(runs):
    assert make_task(laws.Chinchilla, runs).problem().power_sum is not None
