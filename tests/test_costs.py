"""Oracles: closed forms of Chinchilla's law (flat optima, caps), Kaplan's and Hoffmann's own counts of FLOPs, SciPy
minima of losses written out here, the law of repeated data by hand, and finite differences."""

import doctest
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

import jaxscale as jsc
from jaxscale import laws, planning, units
from jaxscale.errors import InputError
from jaxscale.planning import Hardware, optimum, plan

BRUTE = 1e-6  # where a minimum lies, seen from values: the square root of rounding, over its curvature
HOFFMANN, C4 = laws.published["hoffmann2022"], laws.published["su2024-c4"]
BASE, REPEATS = laws.published["muennighoff2023-base"], laws.published["muennighoff2023"]
FLOOR = laws.KaplanNSB(N_c=1e10, alpha_N=0.2, S_c=2e3, alpha_S=0.6, B_star=1e8, alpha_B=0.25, E=1.4)
CLUSTER = Hardware(devices=64, flops=1e15, utilisation=0.4, least_step_time=1.0, price=2.0)


def close(actual, expected, tolerance=1e-10):
    np.testing.assert_allclose(actual, expected, rtol=tolerance)


def hoffmann(N, D):
    return 1.69 + 406.4 / N**0.34 + 410.7 / D**0.28


# -- cost models


@pytest.mark.parametrize(("d", "layers"), [(128, 2), (1600, 48), (8192, 80), (12288, 96)])
def test_costs_are_the_exact_counts(d, layers):
    """At the shape of a real model, to rounding; N with embeddings and without."""
    V, N = 50257, 12 * layers * d**2
    for n_vocab, embeddings in ((0, False), (V, False), (V, True)):
        cost = units.kaplan_cost(2048, n_vocab, aspect=d / layers, embeddings=embeddings)
        close(cost(N + V * d * embeddings), units.kaplan_flops_per_token(d, layers, 2048, n_vocab), 1e-13)
    exact = units.hoffmann_flops_per_sequence(d, layers, 2048, V, d // 64) / 2048
    for embeddings in (True, False):
        cost = units.hoffmann_cost(2048, V, aspect=d / layers, d_head=64, embeddings=embeddings)
        close(cost(N + V * d * embeddings), exact, 1e-13)


def test_costs_in_float32_and_numpy():
    N = np.geomspace(1, 1e30, 31)  # wherever a search looks
    for cost in (units.kaplan_cost(4096), units.kaplan_cost(4096, 128_000, embeddings=True),
                 units.hoffmann_cost(2048, 32_000)):
        assert type(cost(1e9)) in (float, np.float64) and cost(N).dtype == np.float64
        close(np.asarray(cost(jnp.asarray(N, jnp.float32)), float), cost(N), 1e-5)  # 2^-24 times logs of 80
        assert np.all(np.diff(cost(N)) > 0)
    close(units.kaplan_cost(4096)(1e30), 6e30, 1e-7)  # attention is d / N of the whole


@pytest.mark.parametrize("make", [lambda: units.kaplan_cost(0), lambda: units.kaplan_cost("2k"),
                                  lambda: units.hoffmann_cost(2048, -1), lambda: units.kaplan_cost(2048, aspect=True)])
def test_bad_shapes(make):
    with pytest.raises(InputError, match="must be a positive number, not"):
        make()


def test_planning_with_attention_and_embeddings():
    cost = units.kaplan_cost(4096, 50257)
    found = plan(HOFFMANN, compute=[1e18, 1e20], flops_per_token=cost)
    for C, N in zip([1e18, 1e20], found.N, strict=True):
        best = minimize_scalar(lambda x: hoffmann(np.exp(x), C / cost(np.exp(x))), bounds=(12, 26),  # noqa: B023
                               method="bounded", options={"xatol": 1e-10})
        close(N, np.exp(best.x), BRUTE)
    close(cost(found.N) * found.D, [1e18, 1e20])
    before = planning.search.solve._cache_size()
    plan(HOFFMANN, compute=[1e18, 1e20], flops_per_token=units.kaplan_cost(8192, 32_000, aspect=64))
    assert planning.search.solve._cache_size() == before  # another shape compiles nothing


# -- inference and caps


NONE, ALL = 1e-3, 1e30  # tokens of inference, and a cap, that change nothing
T = np.array([1e6, 1e10, 1e12, 1e13, NONE, NONE, NONE, NONE])
MAX_D, MAX_N = np.array([*[ALL] * 4, 1e10, ALL, 1e10, ALL]), np.array([*[ALL] * 5, 1e8, 1e9, 1e9])


def test_inference_and_caps_in_closed_form():
    """Inference by Lagrange's condition; a cap on tokens or parameters leaves all to the other, both some unspent."""
    limits = {"inference_tokens": T, "max_tokens": MAX_D, "max_N": MAX_N}
    with pytest.warns(UserWarning, match="max_N and max_tokens leave compute unspent: 0.006 of it is used"):
        found = plan(HOFFMANN, compute=1e22, **limits)
    used, capped = slice(0, 4), slice(4, None)
    spent = [1e22] * 6 + [6e19, 1e22]
    close(6 * found.N * found.D + 2 * found.N * T, spent)
    close(found.compute, spent)
    close(found.serving, 2 * found.N * T)
    close(found.loss, hoffmann(found.N, found.D))
    # The slopes of the loss in N and D go as what a parameter and a token cost, 6 D + 2 T and 6 N.
    dN, dD = 0.34 * 406.4 / found.N**1.34, 0.28 * 410.7 / found.D**1.28
    close((dN / dD)[used], ((6 * found.D + 2 * T) / (6 * found.N))[used], 1e-8)
    assert np.all(np.diff(found.N[used]) < 0) and np.all(np.diff((found.D / found.N)[used]) > 0)
    free = plan(HOFFMANN, compute=1e22)
    close(found.N[0], free.N, 1e-5)
    close(found.N[capped], [1e22 / 6e10, 1e8, 1e9, 1e9])
    close(found.D[capped], [1e10, 1e22 / 6e8, 1e10, 1e22 / 6e9])
    back = plan(HOFFMANN, loss=found.loss, **limits)
    close(back.compute, found.compute, 1e-12)
    close(back.N, found.N, 1e-8)


def test_more_epochs_buy_nothing():
    """Far beyond what repeats are worth a fraction of the compute comes within 0.01% of the loss, by the law itself."""
    with pytest.warns(UserWarning, match="the law has saturated.* within 0.01% of the loss") as said:
        found = plan(REPEATS, compute=1e25, unique_tokens=1e10)
    N, D = (float(value) for value in re.search(r"N = (.*?), D = (.*?)\)", str(said[0].message)).groups())
    with jax.enable_x64(True):
        assert float(REPEATS(N, D, 1e10)) < found.loss * (1 + 1.1e-4)  # of three digits
    assert 6 * N * D < 0.5e25


def test_inference_at_the_critical_batch():
    """Least total FLOPs to a loss, from D = 2 E_min(N, L) written out, with the user's cost of inference."""
    found = plan(FLOOR, loss=2.2, inference_tokens=3e11, inference_flops_per_token=lambda N: 2 * N + 1e8)

    def total(x):
        N = np.exp(x)
        S_min = FLOOR.S_c * (2.2 - FLOOR.E - (FLOOR.N_c / N) ** FLOOR.alpha_N) ** (-1 / FLOOR.alpha_S)
        tokens = 2 * S_min * FLOOR.B_star / 2.2 ** (1 / FLOOR.alpha_B)
        return np.log(6 * N * tokens + (2 * N + 1e8) * 3e11)

    least = np.log(FLOOR.N_c) - np.log(0.8) / FLOOR.alpha_N  # the N whose minimum loss is 2.2
    best = minimize_scalar(total, bounds=(least + 0.1, least + 10), method="bounded", options={"xatol": 1e-10})
    close(found.N, np.exp(best.x), BRUTE)
    close(found.compute, np.exp(best.fun))


# -- hardware


def test_days():
    """A run that is bound by its FLOPs spends the rate times the days; one bound by its steps takes so many."""
    hardware = Hardware(64, 1e15, 0.4, largest_batch=1e6, least_step_time=0.5, price=2.0)
    with pytest.warns(UserWarning, match="max_days leave compute unspent: 0.22 of it"):
        found = plan(C4, compute=1e22, hardware=hardware, max_days=[1.0, 1e3])
    rate = 64 * 4e14 * 86400
    close(found.compute, [rate, 1e22], 1e-12)
    close(found.days, [1.0, 1e22 / rate], 1e-12)
    close(found.devices, 64)
    close(found.money, 64 * 2.0 * 24 * found.days)
    close(found.B, 1e6)
    with jax.enable_x64(True):
        losses = [np.asarray(C4(found.N * factor, found.S / factor, 1e6)) for factor in (1.0, 1.01, 0.99)]
    close(found.loss, losses[0])
    assert np.all(losses[0] < np.minimum(*losses[1:]))
    for name, value in zip("NDSB", optimum(C4, np.float32(1e22), hardware=hardware, max_days=1.0), strict=False):
        assert value.dtype == np.float32
        close(value, getattr(found, name)[0], 1e-4)


def test_hardware():
    close(CLUSTER.seconds_per_step(1e9, np.array([1e6, 1e8])), [1.0, 6e17 / (64 * 4e14)])
    close(CLUSTER.days(1e21, 1e6), 1e6 / 86400)
    close(CLUSTER.busy(1e21, 1e6), 1e21 / (4e14 * 1e6))
    close(CLUSTER.money(1e21), 2.0 * 1e21 / 4e14 / 3600)
    assert Hardware(8, 1e15, 0.4).money(1e21) is None
    for wrong in (dict(devices=0), dict(flops="1e15"), dict(utilisation=40), dict(price=-1.0), dict(largest_batch=0),
                  dict(least_step_time=np.nan), dict(devices=True)):
        with pytest.raises(InputError, match=f"Hardware's {next(iter(wrong))}"):
            Hardware(**dict(devices=8, flops=1e15, utilisation=0.4) | wrong)


# -- repeated data


def test_repeats_by_hand():
    """SCIENCE.md's equations, and Chinchilla's law without repeats up to N_opt(U)."""
    with jax.enable_x64(True):
        N, D = np.geomspace(1e7, 1e10, 4), np.geomspace(1e9, 1e12, 4)
        U = np.maximum(D, 20 * N * 1.1)  # N_opt is a little less than U / 20
        close(REPEATS(N, D, U), BASE(N, D), 1e-15)
        N, D, U = 9e9, 2e11, 1e10
        G = (520.8 / 1487.7) ** (1 / 0.7054)
        U_N = G * G * U
        effective_D = U + U * 15.39 * (1 - np.exp(-(D / U - 1) / 15.39))
        effective_N = U_N + U_N * 5.31 * (1 - np.exp(-(N / U_N - 1) / 5.31))
        close(REPEATS(N, D, U), 1.869 + 520.8 / effective_N**0.3527 + 1487.7 / effective_D**0.3527, 1e-14)
        close(REPEATS.optimal_parameters(U), plan(BASE, compute=6 * U_N * U).N)
        lopsided = laws.DataConstrained(E=1.0, A=300.0, B=2e3, alpha=0.3, beta=0.4, R_D=15.0, R_N=5.0)
        optimal = plan(laws.Chinchilla(1.0, 300.0, 2e3, 0.3, 0.4), compute=1e21)
        close(lopsided.optimal_parameters(optimal.D), optimal.N)


def test_planning_of_repeats():
    C, U = np.array([1e19, 1e22, 1e23]), 1e10
    found = plan(REPEATS, compute=C, unique_tokens=U)
    close(found.epochs, found.D / U, 1e-15)
    close([found.N[0], found.loss[0]], [plan(BASE, compute=C).N[0], plan(BASE, compute=C).loss[0]])  # no repeats
    assert np.all(found.epochs[1:] > 10) and np.all(found.loss[1:] > plan(BASE, compute=C).loss[1:])

    def loss(x, C):
        U_N = (520.8 / 1487.7) ** (2 / 0.7054) * U
        ends = []
        for used, unique, R in ((np.exp(x), U_N, 5.31), (C / 6 / np.exp(x), U, 15.39)):
            ends.append(unique * (1 + R * (1 - np.exp(-(used / unique - 1) / R))) if used > unique else used)
        return 1.869 + 520.8 / ends[0] ** 0.3527 + 1487.7 / ends[1] ** 0.3527

    for budget, N, least in zip(C, found.N, found.loss, strict=True):
        best = minimize_scalar(loss, bounds=(18, 26), args=(budget,), method="bounded", options={"xatol": 1e-10})
        close([N, least], [np.exp(best.x), best.fun], BRUTE)
    assert "epochs  [" in str(found)


def test_constants_are_recovered(rng):
    """From a table without noise, 120 runs of up to 300 epochs, without a start; E to beta are held as in the paper."""
    N, U, epochs = np.exp(rng.uniform(np.log([[1e7], [1e8], [0.3]]), np.log([[9e9], [1e11], [300]]), (3, 120)))
    with jax.enable_x64(True):
        loss = np.asarray(REPEATS(N, U * epochs, U))
    runs = jsc.read_runs({"params": N, "tokens": U * epochs, "u_d": U, "loss": loss})
    known = {name: getattr(REPEATS, name) for name in ("E", "A", "B", "alpha", "beta")}
    fit = jsc.fit("data-constrained", runs, objective=jsc.squares(), fix=known, errors=None)
    assert fit.converged and not any("repeated data" in note for note in runs.select(fit.law.inputs).notes)
    close([fit.law.R_D, fit.law.R_N], [15.39, 5.31], 1e-6)
    close(fit.predict(N=1e9, D=1e11, unique_tokens=1e10), REPEATS(1e9, 1e11, 1e10), 1e-6)


# -- flat optima


def test_flat_in_closed_form():
    """With alpha = beta, A/N^alpha a share s of L - E: C/C* = (4 s (1 - s))^(-1/alpha) at one loss, and at one
    compute (L - E)/(L* - E) = cosh(alpha ln(N/N*))."""
    capped = np.array([ALL, ALL, 1e10])
    best = plan(BASE, compute=[1e20, 1e23, 1e21], max_tokens=capped)
    low, high = best.flat(0.01)
    root = np.sqrt(1 - 1.01**-0.3527)
    for end, s in ((low, (1 + root) / 2), (high, (1 - root) / 2)):
        close(end.N[:2], ((520.8 / s / (best.loss - 1.869)) ** (1 / 0.3527))[:2])
        close(end.loss, best.loss, 1e-14)
        close(6 * end.N * end.D, end.compute)
        close(end.compute[:2], 1.01 * best.compute[:2], 1e-12)
    close([low.N[2], high.compute[2]], [best.N[2], 1.01e21])  # fewer parameters need more tokens than there are
    assert high.D[2] < 1e10
    low, high = best.flat(0.005, of="loss")
    width = np.exp(np.arccosh(1 + 0.005 * best.loss / (best.loss - 1.869)) / 0.3527)[:2]
    close(low.N[:2], best.N[:2] / width)
    close(high.N[:2], best.N[:2] * width)
    close(high.loss, 1.005 * best.loss, 1e-13)
    close(high.compute, best.compute, 1e-13)


def test_flat_by_brute_force():
    """Chinchilla's law with its own exponents, over a fine grid of ln N."""
    best = plan(HOFFMANN, compute=[1e18, 1e21, 1e24], max_tokens=ALL)
    low, high = best.flat(0.02)
    N = np.exp(np.linspace(-1, 1, 20_001)) * best.N[:, None]
    D = (410.7 / (best.loss[:, None] - 1.69 - 406.4 / N**0.34)) ** (1 / 0.28)
    cheap = [at[cost < 1.02 * C] for at, cost, C in zip(N, 6 * N * D, best.compute, strict=True)]
    close([low.N, high.N], [[at[0] for at in cheap], [at[-1] for at in cheap]], 2e-4)  # the grid's step


@pytest.mark.filterwarnings("ignore:1 of 3 laws")
def test_flat_of_many_laws_and_refusals():
    best = plan(laws.Chinchilla(E=[1.6, np.nan, 1.7], A=406.4, B=410.7, alpha=0.34, beta=0.28), compute=1e20,
                max_tokens=ALL)
    low, high = best.flat()
    assert low.laws == 3 and low.N.shape == (3,) and np.isnan(low.N[1]) and low.N[0] < best.N[0] < high.N[0]
    for wrong, why in (({"extra": 0}, "extra must be"), ({"of": "N"}, "'compute' or of 'loss'")):
        with pytest.raises(InputError, match=why):
            best.flat(**wrong)
    with pytest.raises(InputError, match="no law of their own"):
        low.interval()[0].flat()


# -- derivatives


def differences(quantities, x, direction):
    """The slopes of ln of the quantities at points x of logs, along one direction, and by differences of order 4."""
    step = 1e-3

    def logs(x):
        return jnp.log(jnp.stack([quantity for quantity in quantities(jnp.exp(x)) if quantity is not None]))

    points = x[:, None] + step * np.arange(-2, 3)[:, None] * direction
    value, slope = jax.jit(jax.vmap(jax.vmap(lambda x: jax.jvp(logs, (x,), (direction,)))))(points)
    return value[:, 2], slope[:, 2], (value[:, 0] - 8 * value[:, 1] + 8 * value[:, 3] - value[:, 4]) / (12 * step)


def test_derivatives_through_inference_and_caps(x64):
    """Of smooth optima, and of those at one cap or two; with the law of repeats, in all their numbers at once."""
    points = np.log(np.stack([np.full(8, 1e22), T, MAX_D, MAX_N, np.full(8, 3e11)], axis=1))
    _, slopes, expected = differences(lambda x: optimum(
        REPEATS, x[0], inference_tokens=x[1], max_tokens=x[2], max_N=x[3], unique_tokens=x[4]), points,
        np.linspace(1.0, 0.4, 5))
    np.testing.assert_allclose(slopes, expected, rtol=1e-8, atol=1e-10)


def test_derivatives_through_deadlines(x64):
    """At 1e22 FLOPs both the least time of steps and the devices' rate bind; at less the budget too, or alone."""
    value, slopes, expected = differences(lambda x: optimum(
        HOFFMANN, x[0], batch=1e5, hardware=CLUSTER, max_days=x[1], flops_per_token=units.kaplan_cost(2048, 50257)),
        np.log([[1e22, 0.2], [1e20, 0.2], [1e18, 0.2]]), np.array([1.0, 0.4]))
    N, D, S, _, _ = np.exp(value[0])
    close([S, D], [0.2 * 86400, 0.2 * 86400 * 1e5])
    close(units.kaplan_cost(2048, 50257)(N) * D, 64 * 4e14 * 0.2 * 86400)
    np.testing.assert_allclose(slopes, expected, rtol=1e-8, atol=1e-10)


# -- refusals


@pytest.mark.parametrize(("law", "how", "why"), [
    (HOFFMANN, {"compute": 1e21, "inference_tokens": -1.0}, "inference_tokens must be positive, in tokens"),
    (HOFFMANN, {"compute": 1e21, "inference_tokens": 1e30}, r"with inference_tokens=1e\+30"),
    (HOFFMANN, {"compute": [1e20, 1e21], "max_N": [1e9, 1e9, 1e9]}, "shapes that broadcast"),
    (HOFFMANN, {"compute": 1e21, "max_days": 3.0}, "max_days needs hardware="),
    (HOFFMANN, {"compute": 1e21, "hardware": 8}, "must be a jsc.Hardware, not 8"),
    (HOFFMANN, {"compute": 1e21, "hardware": CLUSTER}, "knows no steps"),
    (HOFFMANN, {"compute": 1e21, "unique_tokens": 1e9}, "DataConstrained, or give max_tokens="),
    (HOFFMANN, {"compute": 1e21, "inference_flops_per_token": 2.0}, "inference_flops_per_token must be a function"),
    (REPEATS, {"compute": 1e21}, "how many tokens there are before any is repeated"),
    (C4, {"compute": 1e21, "convention": "printed", "max_N": 1e9}, "no limits"),
    (C4, {"compute": 1e21, "batch": 1e7, "hardware": Hardware(8, 1e15, 0.4, largest_batch=1e6)}, "largest_batch"),
    (HOFFMANN, {"compute": 1e21, "max_N": 0.5}, "at least one parameter, not 0.5"),
    (HOFFMANN, {"loss": 2.0, "max_N": 1e8}, r"reaches loss=2 in no run with max_N=1e\+08: allow more"),
    (HOFFMANN, {"loss": 1.5, "max_tokens": 1e10}, "out of reach"),
])
def test_refusals(law, how, why):
    with pytest.raises(InputError, match=why) as error:
        plan(law, **how)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", [units, planning.hardware, planning.questions, planning.plans, planning.frontier,
                                    laws.data_constrained])
def test_examples_in_docstrings(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0 and outcome.failed == 0


def test_a_deadline_at_a_compute():
    """The least loss over N and B within compute and steps, by SciPy over both."""
    found = plan(FLOOR, compute=1e21, batch=None, hardware=CLUSTER, max_days=1.0)
    close(found.S, 86400)

    def loss(x):
        with jax.enable_x64(True):
            return float(FLOOR(np.exp(x[0]), 86400.0, 1e21 / 6 / np.exp(x[0]) / 86400))

    best = minimize(loss, [23.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-13})
    close(found.N, np.exp(best.x[0]), 1e-5)
    close(found.loss, best.fun, 1e-12)
