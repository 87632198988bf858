"""Oracles: bisection in extended precision (np.longdouble) on the bracket of SCIENCE.md, itself checked with mpmath at
40 digits; mpmath's numerical derivatives; SciPy's integration of dS_min = dS / (1 + B_noise / B); SCIENCE.md's numbers.
"""

import dataclasses
import functools

import jax
import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from tolerances import EXTENDED, IMPLICIT, TRAJECTORY

from jaxscale import laws

pytestmark = pytest.mark.usefixtures("strict_ranks")

C4, WEBTEXT2 = laws.published["su2024-c4"], laws.published["kaplan2020-webtext2"]
CASES = {"c4": C4, "webtext2": WEBTEXT2, "c4 with a floor": dataclasses.replace(C4, E=1.3)}
every_case = pytest.mark.parametrize("name", CASES)
POINTS = 100_000


def right_side(law, N, S, B):
    """The right side of Eq 3.13 as a function of L, in any arithmetic: NumPy's extended one, mpmath's."""
    minimum, steps = law.E + (law.N_c / N) ** law.alpha_N, (law.S_c / S) ** law.alpha_S
    return lambda L: minimum + steps * (1 + law.B_star / (B * L ** (1 / law.alpha_B))) ** law.alpha_S


def bisect(function, low, high, steps):
    """The fixed point of a falling function."""
    for _ in range(steps):
        middle = (low + high) / 2
        above = function(middle) > middle
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return low, high


def by_extended_bisection(law, *x):
    """The root of Eq 3.13 between E + (N_c/N)^alpha_N and the right side there, which holds it always.

    The first steps are taken in float64, in which they cost a tenth.
    """
    low = law.E + (law.N_c / x[0]) ** law.alpha_N
    function = right_side(law, *x)
    low, high = bisect(function, low, function(low), 65)
    low, high, *x = np.array([low * (1 - 1e-13), high * (1 + 1e-13), *x], np.longdouble)
    function = right_side(jax.tree.map(np.longdouble, law), *x)
    assert np.all(function(low) > low) and np.all(function(high) < high)
    return sum(bisect(function, low, high, 18)) / 2


@functools.cache
def truth(name):
    """Random inputs over the whole range of DESIGN.md, exact in float32, with their losses in extended precision."""
    low, high = np.log([[1e5, 1e13], [1, 1e8], [1e2, 1e9]]).T[..., None]
    x = np.exp(np.random.default_rng(1).uniform(low, high, (3, POINTS))).astype(np.float32).astype(np.float64)
    return x, by_extended_bisection(CASES[name], *x)


def relative_error(loss, exact):
    return np.max(np.abs(np.asarray(loss, np.longdouble) / exact - 1))


# The solve


@every_case
@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="np.longdouble is no wider than float64 here")
def test_the_oracle(name):
    x, exact = truth(name)
    law = jax.tree.map(mpmath.mpf, CASES[name])
    with mpmath.workdps(40):
        for N, S, B, L in zip(*x[:, :500], exact[:500], strict=True):
            function = right_side(law, *map(mpmath.mpf, (N, S, B)))
            near = mpmath.mpf(float(L)) + mpmath.mpf(float(L - np.longdouble(float(L))))
            below, above = near - near * EXTENDED, near + near * EXTENDED
            assert function(below) > below and function(above) < above


@every_case
def test_loss_over_the_whole_range(name, dtype):
    x, exact = truth(name)
    loss = np.asarray(CASES[name](*x.astype(dtype)))
    assert loss.dtype == dtype and np.all(np.isfinite(loss))
    assert relative_error(loss, exact) <= IMPLICIT[dtype]


@every_case
def test_bisection_agrees(name, dtype):
    x, exact = truth(name)
    assert relative_error(CASES[name].by_bisection(*x.astype(dtype)), exact) <= IMPLICIT[dtype]


@pytest.mark.parametrize("odd", [{"alpha_B": 0.05}, {"alpha_B": 0.02}, {"alpha_B": 0.01, "E": 0.5}, {"alpha_S": 1.7},
                                 {"alpha_S": 0.02, "S_c": 1e20}], ids=str)
def test_odd_constants(odd, dtype):
    """Where Halley's steps do not suffice, for tiny alpha_B, the loop inside the bracket finishes them."""
    law, x = dataclasses.replace(C4, **odd), truth("c4")[0][:, :20_000]
    exact = by_extended_bisection(law, *x)
    # alpha_S log S carries the rounding of the logarithm: beyond exponents of one it outgrows the promise.
    assert relative_error(law(*x.astype(dtype)), exact) <= IMPLICIT[dtype] * max(1, law.alpha_S)


def test_numbers_are_solved_as_arrays_are(dtype):
    """Python numbers follow the caller's precision: float64 where x64 is on."""
    x, exact = truth("c4")
    loss = C4(*map(float, x[:, 0]))
    assert loss.dtype == dtype and relative_error(loss, exact[0]) <= IMPLICIT[dtype]


def test_limits(dtype):
    """Endless batch: Eq 3.2. Endless steps: the minimum loss. Early in training: above ln 50000 = 10.8."""
    without_batch = laws.KaplanNS(N_c=1.5e14, alpha_N=0.076, S_c=2.6e3, alpha_S=0.67)
    for N, S in [(1e6, 300.0), (1e9, 1e5)]:
        np.testing.assert_allclose(C4(N, S, np.inf), without_batch(N, S), rtol=IMPLICIT[dtype])
        np.testing.assert_allclose(C4(N, np.inf, 1e6), C4.minimum_loss(N), rtol=IMPLICIT[dtype])
    assert C4(1e6, 1.0, 1e5) > 10.8


# Derivatives


def by_vector(v):
    return laws.KaplanNSB(*v[:7])(*v[7:])


POINTS_FOR_DERIVATIVES = np.array([[*jax.tree.leaves(law), *x] for law, x in [
    (C4, (60e6, 1e5, 2e6)), (C4, (1e12, 3.0, 300.0)), (CASES["c4 with a floor"], (3e6, 1e4, 1e4)),
    (WEBTEXT2, (1e6, 3e7, 5e8))]])


def test_derivatives_are_those_of_mpmath(x64):
    """All ten first derivatives and 55 second ones at four points, as differences of 40-digit roots."""
    first = np.asarray(jax.jit(jax.vmap(jax.grad(by_vector)))(POINTS_FOR_DERIVATIVES))
    second = np.asarray(jax.jit(jax.vmap(jax.hessian(by_vector)))(POINTS_FOR_DERIVATIVES))
    with mpmath.workdps(40):
        for v, gradient, hessian in zip(POINTS_FOR_DERIVATIVES, first, second, strict=True):
            near = float(by_extended_bisection(laws.KaplanNSB(*v[:7]), *v[7:]))

            def loss(*v, near=near):
                function = right_side(laws.KaplanNSB(*v[:7]), *v[7:])
                return mpmath.findroot(lambda L: function(L) - L, near)

            scale = np.where(v == 0, 1, v)
            orders = np.eye(10, dtype=int)
            for i in range(10):
                exact = float(mpmath.diff(loss, v, orders[i].tolist()))
                assert abs(gradient[i] - exact) * scale[i] <= 1e-13 * near
                for j in range(i, 10):
                    exact = float(mpmath.diff(loss, v, (orders[i] + orders[j]).tolist()))
                    assert abs(hessian[i, j] - exact) * scale[i] * scale[j] <= 1e-12 * near


def test_the_solve_is_not_unrolled():
    """One loop over the values alone: no tangent is carried through it, in forward and in reverse mode."""

    def inside(jaxpr):
        """The number of values each loop carries, of all loops at any depth."""
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("while", "scan"):
                yield len(equation.outvars)
            for parameter in equation.params.values():
                inner = getattr(parameter, "jaxpr", parameter)
                if hasattr(inner, "eqns"):
                    yield from inside(inner)

    def loops(function):
        return list(inside(jax.make_jaxpr(function)(C4, 1e9, 1e5, 1e6).jaxpr))

    def call(law, N, S, B):
        return law(N, S, B)

    value = loops(call)
    assert len(value) == 1
    assert loops(jax.grad(call)) == loops(jax.jacfwd(call, argnums=1)) == value
    assert loops(lambda *args: jax.jvp(call, args, args)) == value


def test_derivatives_in_float32_are_finite_everywhere():
    x, _ = truth("c4")
    slopes = jax.jit(jax.vmap(jax.grad(lambda law, *x: law(*x), argnums=(0, 1, 2, 3)), (None, 0, 0, 0)))
    for slope in jax.tree.leaves(slopes(C4, *x.astype(np.float32))):
        assert np.all(np.isfinite(slope)) and np.all(slope != 0)


# Steps, tokens and batch sizes to a loss


@pytest.fixture
def reach(rng):
    """Random N, B and losses from a thousandth above the minimum to 10 nats above, for C4's law."""
    N, B = np.exp(rng.uniform(np.log([[1e5], [1e2]]), np.log([[1e13], [1e9]]), (2, 200)))
    with jax.enable_x64(True):
        return N, B, np.asarray(C4.minimum_loss(N)) + np.exp(rng.uniform(np.log(1e-3), np.log(10), 200))


def test_minimum_loss_and_critical_batch_size(reach, x64):
    N, _, L = reach
    np.testing.assert_allclose(C4.minimum_loss(N), (1.5e14 / N) ** 0.076, rtol=1e-14)
    np.testing.assert_allclose(CASES["c4 with a floor"].minimum_loss(N), 1.3 + (1.5e14 / N) ** 0.076, rtol=1e-14)
    np.testing.assert_allclose(C4.critical_batch_size(L), 1.7e8 / L ** (1 / 0.205), rtol=1e-13)
    np.testing.assert_array_equal(CASES["c4 with a floor"].critical_batch_size(L), C4.critical_batch_size(L))
    np.testing.assert_allclose(C4.minimum_tokens(N, L) / C4.minimum_steps(N, L), C4.critical_batch_size(L), rtol=1e-14)


def test_noise_scale_is_local(reach, x64):
    """dE_min / dS_min along a run, by differences; it is not B_crit = E_min / S_min, the mean of the run so far."""
    N, _, L = reach
    for law in (C4, CASES["c4 with a floor"]):
        floor = law.minimum_loss(N)
        L_ = L + law.E
        above, below = L_ + 1e-4 * (L_ - floor), L_ - 1e-4 * (L_ - floor)
        tokens, steps = (method(N, above) - method(N, below) for method in (law.minimum_tokens, law.minimum_steps))
        local = tokens / steps
        np.testing.assert_allclose(law.noise_scale(N, L_), local, rtol=1e-6)
        mean = law.critical_batch_size(L_)
        np.testing.assert_allclose(local / mean, 1 + 0.67 / 0.205 * (1 - floor / L_), rtol=1e-6)
        assert np.all(local > mean) and np.max(local / mean) > 1.8


def test_steps_to_a_loss(reach, x64):
    """Eq 3.10: the law at S = S_min + E_min / B is the loss, and (S/S_min - 1)(D/E_min - 1) = 1."""
    N, B, L = reach
    for law in CASES.values():
        L_ = L + law.minimum_loss(N) - C4.minimum_loss(N)
        S, S_min, E_min = law.steps_to_loss(N, B, L_), law.minimum_steps(N, L_), law.minimum_tokens(N, L_)
        np.testing.assert_allclose(law(N, S, B), L_, rtol=1e-12)
        np.testing.assert_allclose(S, S_min + E_min / B, rtol=1e-14)
        B = law.critical_batch_size(L_) * np.geomspace(1e-3, 1e3, 200)  # where neither factor is lost in rounding
        S = law.steps_to_loss(N, B, L_)
        np.testing.assert_allclose((S / S_min - 1) * (S * B / E_min - 1), 1, rtol=1e-12)
    at_critical = law.steps_to_loss(N, law.critical_batch_size(L_), L_)
    np.testing.assert_allclose(at_critical, 2 * S_min, rtol=1e-14)


def test_out_of_reach_is_infinite(dtype):
    lowest = float(C4.minimum_loss(1e9))
    for loss in (lowest, 0.9 * lowest, 0.1):
        for method, inputs in ((C4.minimum_steps, (1e9, loss)), (C4.minimum_tokens, (1e9, loss)),
                               (C4.steps_to_loss, (1e9, 1e6, loss))):
            assert method(*inputs) == np.inf
            assert not np.isnan(jax.grad(method, argnums=len(inputs) - 1)(*inputs))
    with_some = C4.minimum_steps(1e9, np.array([0.1, 3.0]))
    assert np.isinf(with_some[0]) and np.isfinite(with_some[1])


def test_plans_at_the_critical_batch(x64):
    """SCIENCE.md: with the C4 constants at 1e21 FLOPs, Eq 5.1 as printed promises 2.4774, and its model, steps and
    batch size reach 2.5982; the exact plan is at its own critical batch size at 2.5669."""
    assert round(float(C4(4.036e9, 2.030e4, np.inf)), 4) == 2.4774
    assert round(float(C4(4.036e9, 2.030e4, C4.critical_batch_size(2.4774))), 4) == 2.5982
    assert round(float(C4(2.530e9, 3.850e4, C4.critical_batch_size(2.5669))), 4) == 2.5669


# The loss along a run

N = 2e7
STEPS = np.array([100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5])


def run(B, S, law=C4):
    return np.asarray(law.trajectory(N, np.asarray(B, float), np.asarray(S, float)))


@every_case
@pytest.mark.parametrize("B", [1e3, 3e5, 1e8])
def test_constant_batch_is_the_implicit_law(name, B, x64):
    law = CASES[name]
    np.testing.assert_array_equal(law.trajectory(N, B, STEPS), law(N, STEPS, B))
    np.testing.assert_allclose(run([B] * 8, STEPS, law), law(N, STEPS, B), rtol=TRAJECTORY)


def test_cutting_a_piece_changes_nothing(x64):
    whole = run([1e5, 3e6], [5e3, 2e4])
    for cut in (6e3, 1.23e4, 1.999e4):
        np.testing.assert_allclose(run([1e5, 3e6, 3e6], [5e3, cut, 2e4])[[0, 2]], whole, rtol=TRAJECTORY)
    np.testing.assert_allclose(run([1e5, 1e5, 3e6], [7.0, 5e3, 2e4])[1:], whole, rtol=TRAJECTORY)
    many = np.linspace(5e3, 2e4, 301)
    np.testing.assert_allclose(run([1e5, *[3e6] * 300], many)[-1], whole[-1], rtol=TRAJECTORY)


def test_pieces_are_not_exchangeable(x64):
    """Small batches early and large ones late is the better order: B_noise grows as the loss falls."""
    rising, falling = run([1e5, 3e6], [1e4, 2e4]), run([3e6, 1e5], [1e4, 2e4])
    assert falling[1] > 1.005 * rising[1]


def test_each_piece_solves_its_equation(x64):
    """S_min(L) + E_min(L)/B = S_min(L0) + E_min(L0)/B + dS."""
    for law in CASES.values():
        B = np.array([1e5, 3e6, 2e4, 2e4, 1e8, 1e3, 4e5, 1e6])
        L = run(B, STEPS, law)
        after = law.steps_to_loss(N, B, L)
        before = np.append(0.0, law.steps_to_loss(N, B[1:], L[:-1]))
        np.testing.assert_allclose(after - before, np.diff(STEPS, prepend=0), rtol=1e-9)
        assert np.all(np.diff(L) < 0)


def test_trajectory_is_the_integral_of_the_local_rule(x64):
    """dS_min = dS / (1 + B_noise / B), integrated by SciPy in log S_min from the end of the first piece."""
    B, S = [2e5, 3e6, 5e4], [1e3, 1e4, 5e4]
    losses = run(B, S)
    floor = (1.5e14 / N) ** 0.076

    def rate(_, log_steps, B):
        loss = floor + (2.6e3 * np.exp(-log_steps)) ** 0.67
        noise = 1.7e8 * loss ** (-1 / 0.205) * (1 + 0.67 / 0.205 * (loss - floor) / loss)
        return np.exp(-log_steps) / (1 + noise / B)

    start = float(C4.minimum_steps(N, losses[0]))
    for k in (1, 2):
        out = solve_ivp(rate, (S[k - 1], S[k]), [np.log(start)], args=(B[k],), method="DOP853", rtol=1e-12, atol=1e-12)
        start = np.exp(out.y[0, -1])
        np.testing.assert_allclose(losses[k], floor + (2.6e3 / start) ** 0.67, rtol=1e-10)


@pytest.mark.parametrize("ratio, at_critical, constant, optimal", [(1.113, 2.646, 2.493, 2.419),
                                                                   (1.3, 3.220, 2.960, 2.726)])
def test_batch_schedules_of_science(ratio, at_critical, constant, optimal, x64):
    """S / S_min at one loss and one number of tokens for B = B_crit(L(t)), constant B, and the best schedule."""
    loss = ratio * float(C4.minimum_loss(N))
    S_min, E_min = float(C4.minimum_steps(N, loss)), float(C4.minimum_tokens(N, loss))
    steps = S_min * np.exp(np.linspace(-45, 0, 4001))
    losses = np.asarray(laws.KaplanNS(1.5e14, 0.076, 2.6e3, 0.67)(N, steps))
    critical, noise = np.asarray(C4.critical_batch_size(losses)), np.asarray(C4.noise_scale(N, losses))

    def integral(rate):
        """Over S_min up to each of `steps`, by trapezoids in its logarithm."""
        area = 0.5 * np.diff(np.log(steps)) * ((rate * steps)[1:] + (rate * steps)[:-1])
        return np.append(0, np.cumsum(area))

    assert np.isclose(integral(noise)[-1], E_min, rtol=1e-4)
    S = integral(1 + noise / critical)[-1]  # dS = dS_min + dE_min / B
    D = integral(critical + noise)[-1]  # dD = B dS
    assert round(S / S_min, 3) == at_critical
    # (S - S_min)(D - E_min) is S_min E_min at a constant batch and (int sqrt(B_noise) dS_min)^2 at best.
    assert round(1 + E_min / (D - E_min), 3) == constant
    root = integral(np.sqrt(noise))
    assert round(1 + root[-1] ** 2 / (D - E_min) / S_min, 3) == optimal
    # Run as 4000 pieces, each schedule ends at the loss: B_crit(L(t)), and the best, c sqrt(B_noise(L(t))).
    best = (D - E_min) / root[-1] * np.sqrt(noise)
    for B, rate in [(critical, 1 + noise / critical), (best, 1 + noise / best)]:
        np.testing.assert_allclose(run(np.sqrt(B[1:] * B[:-1]), integral(rate)[1:])[-1], loss, rtol=1e-6)
    B = (D - E_min) / S_min
    np.testing.assert_allclose(C4.steps_to_loss(N, B, loss) * B, D, rtol=1e-12)


def test_trajectory_takes_lists_and_is_differentiable(dtype):
    B, S = [10**5, 3 * 10**6], [10**4, 3 * 10**4]
    losses = C4.trajectory(2 * 10**7, B, S)
    assert losses.dtype == dtype and losses.shape == (2,)
    np.testing.assert_allclose(losses, run(B, S), rtol=IMPLICIT[np.float32])
    sizes = np.array([1e6, 2e7], dtype)
    batch = jax.vmap(lambda N: C4.trajectory(N, B, S))(sizes)
    np.testing.assert_allclose(batch[1], losses, rtol=IMPLICIT[dtype])
    assert batch.shape == (2, 2) and np.all(batch[0] > batch[1])

    def last(alpha_S):
        return dataclasses.replace(C4, alpha_S=alpha_S).trajectory(N, np.array(B, dtype), np.array(S, dtype))[-1]

    slope = jax.grad(last)(0.67)
    with jax.enable_x64(True):
        change = [float(dataclasses.replace(C4, alpha_S=a).trajectory(N, B, S)[-1]) for a in (0.67 - 1e-5, 0.67 + 1e-5)]
    np.testing.assert_allclose(slope, np.diff(change)[0] / 2e-5, rtol={np.float32: 1e-4}.get(dtype, 1e-8))
