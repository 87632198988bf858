"""Oracles: mpmath's quadrature at 30 digits and dE_min = B_noise dS_min; SciPy's integration of the local rule in S;
Eq 3.10 at a constant batch; SCIENCE.md's numbers; random policies and brute force over batch sizes.
"""

import dataclasses
import doctest

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from jaxscale import laws, schedules
from jaxscale.errors import InputError

C4, WEBTEXT2 = laws.published["su2024-c4"], laws.published["kaplan2020-webtext2"]
FLOOR = dataclasses.replace(C4, E=1.3)
N = 1e9
RATIOS = np.array([1.001, 1.02, 1.113, 1.3, 2.0, 3.0])  # of the loss to the minimum loss
TARGET = float(C4.minimum_loss(N)) * 1.113


def close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=tolerance)


# The integrals


@pytest.mark.parametrize("law", [C4, WEBTEXT2, FLOOR], ids=["c4", "webtext2", "floor"])
def test_tokens_are_the_integral_of_the_noise_scale(law, x64):
    """dE_min = B_noise dS_min: the quadrature against a closed form, from near the minimum loss to early training."""
    losses = law.minimum_loss(N) * RATIOS
    tokens = jax.vmap(lambda loss: schedules.along(law, N, loss, lambda L: law.noise_scale(N, L)))(losses)
    steps = jax.vmap(lambda loss: schedules.along(law, N, loss, lambda L: 1.0))(losses)
    close(tokens, law.minimum_tokens(N, losses), 1e-13)
    close(steps, law.minimum_steps(N, losses), 1e-13)


@pytest.mark.parametrize("odd", [{}, {"alpha_S": 1.5, "alpha_B": 0.08}, {"alpha_S": 0.1, "alpha_B": 0.9, "E": 1.3}],
                         ids=str)
def test_integrals_are_those_of_mpmath(odd, x64):
    law = dataclasses.replace(C4, **odd)
    exact, loss = jax.tree.map(mpmath.mpf, law), float(law.minimum_loss(N) * 1.05)
    with mpmath.workdps(30):
        least = exact.E + (exact.N_c / N) ** exact.alpha_N
        deepest = mpmath.log(exact.S_c * (loss - least) ** (-1 / exact.alpha_S))

        def critical_and_noise(s):
            excess = (exact.S_c / s) ** exact.alpha_S
            critical = exact.B_star / (least + excess) ** (1 / exact.alpha_B)
            return critical, critical * (1 + exact.alpha_S / exact.alpha_B * excess / (least + excess))

        def integral(density):
            return mpmath.quad(lambda v: mpmath.exp(v) * density(*critical_and_noise(mpmath.exp(v))),
                               [deepest - u for u in (70, 45, 30, 20, 10, 5, 2, 1, 0.5, 0.2, 0)])

        expected = [integral(lambda critical, noise: 1 + noise / critical),
                    integral(lambda critical, noise: noise + critical),
                    integral(lambda critical, noise: mpmath.sqrt(noise))]
    found = *schedules.spent(law, N, loss, law.critical_batch_size), schedules.root_noise(law, N, loss)
    # A loss 5% above the minimum has lost a digit and more of its distance from it.
    close(np.array(found), np.array(expected, float), 1e-13)


def test_constant_batch_is_the_implicit_law(x64):
    """The local rule at a constant batch gives Eq 3.10, and with it Eq 3.13."""
    for law in (C4, WEBTEXT2, FLOOR):
        losses = np.asarray(law.minimum_loss(N)) * RATIOS
        for B in (1e3, 1e6, 1e9):
            S, D = jax.vmap(lambda loss, law=law, B=B: schedules.spent(law, N, loss, lambda L: B))(losses)
            close(S, law.steps_to_loss(N, B, losses), 1e-12)
            close(D, B * S, 1e-12)
            close(law(N, S, B), losses, 1e-10)


@pytest.mark.parametrize("policy", ["critical", "optimal", "own"])
def test_policies_are_what_integrating_in_steps_gives(policy, x64):
    """dS_min = dS / (1 + B_noise / B), dD = B dS by SciPy, from a thousandth of S_min on, ends at the loss."""
    batch = {"critical": C4.critical_batch_size, "optimal": lambda L: 500 * jnp.sqrt(C4.noise_scale(N, L)),
             "own": lambda L: 1e6 / L}[policy]
    early = float(C4.minimum_loss(N) + (C4.S_c / (1e-3 * C4.minimum_steps(N, TARGET))) ** C4.alpha_S)
    (S0, D0), (S, D) = (map(float, schedules.spent(C4, N, loss, batch)) for loss in (early, TARGET))

    @jax.jit
    def slope(S, state):
        L = C4.minimum_loss(N) + (C4.S_c / state[0]) ** C4.alpha_S
        B = batch(L)
        return jnp.stack([1 / (1 + C4.noise_scale(N, L) / B), B])

    start = [1e-3 * float(C4.minimum_steps(N, TARGET)), D0]
    found = solve_ivp(slope, (S0, S), start, rtol=1e-10, atol=1e-6, method="DOP853")
    close(found.y[:, -1], [C4.minimum_steps(N, TARGET), D], 1e-8)


def test_in_float32():
    """The formulas in the precision of training code; nothing overflows where losses are far above any real one."""
    with jax.enable_x64(True):
        exact = [np.asarray(x) for x in schedules.spent(C4, N, 2.9, C4.critical_batch_size)]
    found = jax.jit(lambda loss: schedules.spent(C4, N, loss, C4.critical_batch_size))(jnp.float32(2.9))
    assert all(x.dtype == np.float32 for x in found)
    # The rounding of a loss 1.18 times the minimum is 6e-8 * 1.18 / 0.18 of their distance, S_min that to -1.5.
    close(found, exact, 3e-6)
    for law, loss in ((dataclasses.replace(C4, alpha_B=0.08), 3.0), (C4, 30.0)):
        with jax.enable_x64(True):
            exact = np.array(schedules.spent(law, N, loss, law.critical_batch_size))
        close(np.array(schedules.spent(law, N, loss, law.critical_batch_size)), exact, 5e-6)


def test_derivatives_are_finite_differences(x64):
    def steps(x, law):
        return jnp.log(schedules.spent(law, jnp.exp(x[0]), jnp.exp(x[1]), law.critical_batch_size)[0])

    x, h = np.log([N, TARGET]), 1e-5
    law = jax.tree.map(np.float64, C4)
    by_x, by_law = jax.jit(jax.grad(steps, argnums=(0, 1)))(x, law)
    both = jax.jit(steps)
    for i in range(2):
        move = h * np.eye(2)[i]
        close(by_x[i], (both(x + move, law) - both(x - move, law)) / (2 * h), 1e-7)
    for name in ("N_c", "alpha_S", "B_star", "alpha_B", "S_c"):
        value = getattr(law, name)
        up, down = (both(x, dataclasses.replace(law, **{name: value * (1 + d)})) for d in (h, -h))
        np.testing.assert_allclose(getattr(by_law, name) * value, (up - down) / (2 * h), rtol=1e-6, atol=1e-10)


# The policies side by side


@pytest.mark.parametrize(("ratio", "printed"), [(1.113, (2.646, 2.493, 2.419)), (1.3, (3.220, 2.960, 2.726))])
def test_numbers_seen(ratio, printed):
    """SCIENCE.md's S / S_min, at the tokens of B_crit(L(t))."""
    found = schedules.compare(C4, N, float(C4.minimum_loss(N)) * ratio)
    steps = [getattr(found, name).S_ratio for name in ("critical", "constant", "optimal")]
    np.testing.assert_allclose(steps, printed, atol=5.1e-4)  # float32 gave the minimum loss, 1e-7 off
    assert type(found.constant.S) is np.float64


def test_equal_tokens_and_loss(x64):
    """(S - S_min)(D - E_min) is S_min E_min for the constant batch, I^2 for the optimum, and less by Cauchy-Schwarz."""
    for law in (C4, WEBTEXT2, FLOOR):
        for ratio in RATIOS:
            loss = float(law.minimum_loss(N) * ratio)
            found = schedules.compare(law, N, loss)
            over = found.D - found.E_min
            close((found.constant.S - found.S_min) * over, found.S_min * found.E_min, 1e-12)
            close(found.constant.S * found.constant.B, found.D, 1e-12)
            share = (found.optimal.S - found.S_min) * over / (found.S_min * found.E_min)
            assert 0.65 < share < 1 and found.optimal.S < found.constant.S < found.critical.S
            S, D = schedules.spent(law, N, loss, lambda L: found.c * jnp.sqrt(law.noise_scale(N, L)))  # noqa: B023
            close([S, D, found.D_ratio], [found.optimal.S, found.D, found.D / found.E_min], 1e-12)


def test_no_policy_is_better(x64, rng):
    """D + c^2 S of the optimum against random policies, and against itself bent by a thousandth."""
    c = 700.0

    def cost(batch):
        S, D = schedules.spent(C4, N, TARGET, batch)
        return D + c**2 * S

    def best(L):
        return c * jnp.sqrt(C4.noise_scale(N, L))

    @jax.jit
    def bent(size, rate, shift):
        return cost(lambda L: best(L) * jnp.exp(size * jnp.sin(rate * jnp.log(L) + shift)))

    least = cost(best)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(20):
            assert bent(size, rng.uniform(0.1, 10), rng.uniform(0, 6)) > least
    slope = jax.grad(bent)(0.0, 3.0, 1.0)
    assert abs(slope) < 1e-12 * least


def test_many_laws_are_a_loop(rng):
    alpha_S = rng.uniform(0.6, 0.7, 5)
    found = schedules.compare(dataclasses.replace(C4, alpha_S=alpha_S), N, TARGET)
    assert found.laws == 5 and found.optimal.S.shape == (5,)
    for i, value in enumerate(alpha_S):
        one = schedules.compare(dataclasses.replace(C4, alpha_S=value), N, TARGET)
        close([found.constant.S[i], found.optimal.S_ratio[i], found.c[i]],
              [one.constant.S, one.optimal.S_ratio, one.c], 1e-14)
    low, high = found.interval(0.8)
    close(low.optimal.S_ratio, np.quantile(found.optimal.S_ratio, 0.1), 1e-14)
    close(high.D, np.quantile(found.D, 0.9), 1e-14)
    assert low.laws is None
    lines = str(found).splitlines()
    assert len({len(line) for line in lines[1:5]}) == 1 and "5 laws" in lines[-1] and ".." in lines[3]


def test_laws_that_cannot_reach_the_loss():
    """They are NaN, and the interval says so and leaves them out."""
    found = schedules.compare(dataclasses.replace(C4, E=np.array([0.0, 0.05, 2.0])), N, TARGET)
    assert list(np.isnan(found.optimal.S)) == list(np.isnan(found.D_ratio)) == [False, False, True]
    with pytest.warns(UserWarning, match="1 of 3 laws cannot reach"):
        low, high = found.interval(0.5)
    assert low.optimal.S < high.optimal.S < np.inf


# The optimum as a table


@pytest.fixture(scope="module")
def schedule():
    return schedules.optimal(C4, N, TARGET, tokens=5e10)


def test_a_schedule_ends_where_the_integral_does(schedule, x64):
    close(schedule.D[-1], 5e10, 1e-13)
    S, _ = schedules.spent(C4, N, TARGET, lambda L: schedule.c * jnp.sqrt(C4.noise_scale(N, L)))
    close(schedule.S[-1], S, 1e-12)
    close(schedule.loss, C4.trajectory(N, schedule.B, schedule.S), 0)
    close(np.cumsum(np.diff(schedule.S, prepend=0) * schedule.B), schedule.D, 1e-14)
    ends = schedule.c * np.sqrt(C4.noise_scale(N, schedule.loss))
    close(schedule.B[1:], (ends[1:] + ends[:-1]) / 2, 2e-3)  # the mean over each row
    assert np.all(np.diff(schedule.B) > 0) and schedule.aim == TARGET


def test_finer_rows_come_nearer_to_the_ideal(schedule):
    """Pieces of one batch size: the error of the loss is of second order in their length."""
    errors = [abs(schedules.optimal(C4, N, TARGET, tokens=5e10, rows=rows).loss[-1] / TARGET - 1) for rows in (16, 64)]
    errors.append(abs(schedule.loss[-1] / TARGET - 1))
    assert errors[0] < 1e-4 and errors[1] < errors[0] / 12 and errors[2] < errors[1] / 3 and errors[2] < 1e-6


def test_tokens_steps_and_a_price_are_one_question(schedule):
    by_steps = schedules.optimal(C4, N, TARGET, steps=schedule.S[-1])
    by_price = schedules.optimal(C4, N, TARGET, step_price=schedule.c**2)
    for other in (by_steps, by_price):
        close(other.D, schedule.D, 1e-9)
        close(other.B, schedule.B, 1e-9)


@pytest.mark.parametrize(("how", "allowed"), [
    ({"unit": 2**17, "powers": True}, 2**17 * 2 ** np.arange(20)),
    ({"unit": 3000, "powers": True, "least": 1e5, "most": 5e5}, 3000 * np.array([64, 128])),
    ({"unit": 2**17, "most": 7e5}, 2**17 * np.arange(1, 6))], ids=["powers", "powers between", "multiples"])
def test_rounded_batch_sizes(schedule, how, allowed):
    """Each row's tokens at the nearest batch size allowed, by brute force; the loss is the law's along the result."""
    found = schedule.rounded(**how)
    nearest = allowed[np.argmin(abs(np.log(schedule.B[:, None] / allowed)), axis=1)]
    assert set(found.B) <= set(nearest) and np.all(np.diff(found.B) != 0) and np.all(found.S % 1 == 0)
    tokens = np.diff(schedule.D, prepend=0)
    assert abs(found.D[-1] - 5e10) <= len(found.B) * max(allowed.min(), found.B.max())
    assert abs(found.S[-1] - np.sum(tokens / nearest)) <= 0.5 + 1e-6
    by_row = C4.trajectory(N, nearest, np.cumsum(tokens / nearest))[-1]
    close(found.loss[-1], by_row, 1e-5)
    with jax.enable_x64(True):
        close(found.loss, C4.trajectory(N, found.B, found.S), 1e-14)


def test_a_fine_unit_changes_little(schedule):
    """Batch sizes to 64 tokens and whole steps: the loss to 1e-5 of the ideal one."""
    found = schedule.rounded(unit=64)
    close(found.loss[-1], TARGET, 1e-5)
    close([found.S[-1], found.D[-1]], [schedule.S[-1], 5e10], 1e-4)


def test_print_and_frame(schedule):
    lines = str(schedule).splitlines()
    assert lines[0] == f"N = 1e+09: loss {schedule.loss[-1]:.5f} (ideal schedule: {TARGET:.5f})"
    assert len(lines) == 15 and lines[-1] == "(128 rows)" and len({len(line) for line in lines[1:-1]}) == 1
    frame = schedule.to_frame()
    assert list(frame.columns) == ["S", "D", "loss", "B"] and len(frame) == 128


def test_examples():
    assert doctest.testmod(schedules).failed == 0


# Refusals


@pytest.mark.parametrize(("call", "why"), [
    (lambda: schedules.compare(laws.published["hoffmann2022"], N, 2.7), "needs a KaplanNSB"),
    (lambda: schedules.compare("c4", N, 2.7), "needs a KaplanNSB, which knows the critical batch size, or a fit"),
    (lambda: schedules.compare(laws.KaplanNSB, N, 2.7), "needs a KaplanNSB"),
    (lambda: schedules.compare(C4, -1, 2.7), "N must be a positive number, in parameters, not -1"),
    (lambda: schedules.compare(C4, [N, N], 2.7), "N must be a positive number"),
    (lambda: schedules.compare(C4, N, np.nan), "loss must be a positive number, in nats"),
    (lambda: schedules.compare(C4, N, 2.0), r"loss=2 is out of reach, 1e\+09 parameters have 2\.47\d* after"),
    (lambda: schedules.compare(dataclasses.replace(C4, E=np.nan), N, 2.7), "finite constants"),
    (lambda: schedules.compare(dataclasses.replace(C4, E=np.ones((2, 2))), N, 2.7), "one leading axis"),
    (lambda: schedules.compare(C4, N, 2.7).interval(), "of many laws"),
    (lambda: schedules.optimal(dataclasses.replace(C4, E=np.ones(3)), N, 2.7, tokens=5e10), "and this is 3 of them"),
    (lambda: schedules.optimal(C4, N, 2.7), "one of tokens=, steps= and step_price=, not none"),
    (lambda: schedules.optimal(C4, N, 2.7, tokens=5e10, steps=1e5), "not tokens and steps"),
    (lambda: schedules.optimal(C4, N, 2.7, tokens=1e10), r"takes more than 3\.199e\+10 tokens at any batch size"),
    (lambda: schedules.optimal(C4, N, 2.7, steps=1e4), "takes more than 2.392e.04 steps"),
    (lambda: schedules.optimal(C4, N, 2.7, step_price=0), "step_price must be a positive number, in tokens"),
    (lambda: schedules.optimal(C4, N, 2.2, tokens=5e10), "out of reach"),
    (lambda: schedules.optimal(C4, N, 2.7, tokens=5e10, rows=1), "rows must be a whole number"),
    (lambda: schedules.optimal(C4, N, 2.7, tokens=5e10, rows=8.5), "rows must be a whole number"),
])
def test_refusals(call, why):
    with pytest.raises(InputError, match=why) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("how", "why"), [
    ({"unit": 0}, "unit must be a positive number, in tokens"), ({"most": -1}, "most must be"),
    ({"unit": 2**20, "least": 5e5, "most": 9e5}, "a multiple of 1.04858e.06 tokens, and there is none from 500000 to"),
    ({"unit": 1000, "powers": True, "least": 5e5, "most": 5.1e5}, "a power of two times 1000 tokens")])
def test_refused_roundings(schedule, how, why):
    with pytest.raises(InputError, match=why):
        schedule.rounded(**how)


def test_a_fit_says_where_it_extrapolates():
    fit = type("Fit", (), {"law": C4, "facts": {"ranges": {"N": (1e6, 1e8)}}})()
    with pytest.warns(UserWarning, match="N = 1e.09 is 10 times beyond"):
        schedules.compare(fit, N, TARGET)
    with pytest.warns(UserWarning, match="N = 1e.09 is 10 times beyond"):
        schedules.optimal(fit, N, TARGET, step_price=1e6)
