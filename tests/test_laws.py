"""Oracles: eager evaluation, Python loops, finite differences in float64, float64 for float32, and SCIENCE.md's tables.

Every law of the catalogue and one of a user's own go through every contract; with x64 off and on where that matters.
"""

import dataclasses
import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tolerances import CLOSED, FINITE_DIFFERENCE, GRADIENT32, IMPLICIT, SAME
from user_laws import OverTrained

import jaxscale as jsc
from jaxscale import laws
from jaxscale.laws import base

pytestmark = pytest.mark.usefixtures("strict_ranks")


EXAMPLES = {
    "chinchilla": laws.published["besiroglu2024"],
    "data-constrained": laws.published["muennighoff2023"],
    "kaplan-n": laws.published["kaplan2020-n"],
    "kaplan-d": laws.published["kaplan2020-d"],
    "kaplan-nd": laws.published["kaplan2020-joint"],
    "kaplan-ns": laws.KaplanNS(N_c=1.5e14, alpha_N=0.076, S_c=2.6e3, alpha_S=0.67, E=0.4),
    "kaplan-nsb": laws.KaplanNSB(N_c=6.5e13, alpha_N=0.076, S_c=2.1e3, alpha_S=0.76, B_star=2.1e8, alpha_B=0.21, E=0.4),
    "critical-batch-size": laws.CriticalBatchSize(B_star=1.7e8, alpha_B=0.205),
    "power-law": laws.PowerLaw(x_c=2.7e28, alpha=0.05, E=0.3),  # Kaplan's L(C_min), 3.1e8 PF-days, with a floor
    "shifted-power-law": laws.ShiftedPowerLaw(x_c=2.7e28, alpha=0.05, E=1.2),
    "sigmoid-power-law": laws.SigmoidPowerLaw(x_c=2.7e28, alpha=0.05, E=0.3, L_0=11.0, kappa=0.4),
    "broken-power-law": laws.BrokenPowerLaw(A=1.3, alpha=0.02, x_b=1e23, beta=0.06, f=0.5, E=0.3),
    "context": laws.ContextLength(E=1.5, A=406.4, B=410.7, alpha=0.34, beta=0.28, K=4.0, gamma=0.5),
    "moe": laws.MoE(a=-0.082, b=-0.108, c=0.009, d=1.104, E_start=1.847, E_max=314.478),
    "moe-experts": laws.published["clark2022-s-base"],
    "annealing": laws.Annealing(L0=2.7, A=0.5, alpha=0.5, C=0.4),
    "over-trained": OverTrained(E=1.8, a=140.0, b=180.0, eta=-0.24),
}
every_law = pytest.mark.parametrize("law", EXAMPLES.values(), ids=EXAMPLES.keys())


def call(law, *inputs):
    return law(*inputs)


def scaled(law, factor):
    """The same law with every constant a little different."""
    return jax.tree.map(lambda constant: constant * factor, law)


def test_every_law_has_an_example():
    assert set(EXAMPLES) == {*laws.catalogue, "over-trained"}
    assert all(type(EXAMPLES[name]) is Law for name, Law in laws.catalogue.items())


# Transformations


@every_law
def test_jit_is_eager(law, sample, dtype):
    x = sample(law.inputs, 5).astype(dtype)
    compiled, again = law(*x), jax.jit(call)(law, *x)
    with jax.disable_jit():
        eager = law(*x)
    assert compiled.dtype == again.dtype == eager.dtype == dtype
    np.testing.assert_allclose(compiled, eager, rtol=SAME[dtype])
    np.testing.assert_allclose(compiled, again, rtol=SAME[dtype])


@every_law
def test_vmap_is_a_loop(law, sample, dtype):
    """Over inputs, and over laws: a batch of laws is a law whose fields carry a leading axis."""
    x = sample(law.inputs, 4)
    many = [scaled(law, factor) for factor in (1.0, 1.01, 0.98, 1.03)]
    batch = jax.tree.map(lambda *constants: np.array(constants), *many)
    assert type(batch) is type(law)
    loop = [[law_(*map(float, point)) for point in x.T] for law_ in many]
    np.testing.assert_allclose(jax.vmap(law)(*x), loop[0], rtol=SAME[dtype])
    over_both = jax.vmap(lambda law, x: jax.vmap(law)(*x), in_axes=(0, None))(batch, tuple(x))
    np.testing.assert_allclose(over_both, loop, rtol=SAME[dtype])
    np.testing.assert_allclose(jax.vmap(call)(batch, *x), np.diag(loop), rtol=SAME[dtype])


@every_law
def test_derivatives_are_finite_differences(law, sample, x64):
    """First and second derivatives, forward and reverse, with respect to the inputs and to the law, as elasticities."""
    x = sample(law.inputs, 6)
    unravel = ravel_pytree((law, *x[:, 0]))[1]

    def value(v):
        return call(*unravel(v))

    v = np.stack([ravel_pytree((law, *point))[0] for point in x.T])  # [n, p]
    step, size = 1e-3, v.shape[1]
    weights = np.array([-1, 9, -45, 0, 45, -9, 1]) / (60 * step)
    factors = 1 + step * np.arange(-3, 4)[:, None] * np.eye(size)[:, None]  # [p, 7, p]
    shifted = v[:, None, None] * factors

    def over_all(function):
        out = jax.jit(jax.vmap(function))(shifted.reshape(-1, size))
        return np.asarray(out).reshape(*shifted.shape[:3], *out.shape[1:])

    values, gradients = over_all(value), over_all(jax.grad(value))  # [n, p, 7], [n, p, 7, p]
    loss, gradient = values[:, :1, 3], gradients[:, 0, 3]
    np.testing.assert_allclose(values @ weights / loss, v * gradient / loss, atol=FINITE_DIFFERENCE)

    forward, hessian = jax.jit(jax.vmap(lambda v: (jax.jacfwd(value)(v), jax.hessian(value)(v))))(v)
    # As elasticities: one that is nil (of A in DataConstrained, where N is beyond use) is rounding alone.
    np.testing.assert_allclose(v * forward / loss, v * gradient / loss, rtol=1e-11, atol=1e-13)
    second = v[:, :, None] * hessian * v[:, None, :]
    by_differences = np.einsum("nikj,k->nij", gradients, weights) * v[:, None, :]
    loss = loss[..., None]
    np.testing.assert_allclose(by_differences / loss, second / loss, atol=100 * FINITE_DIFFERENCE)


@every_law
def test_jvp_and_gradient_law(law, sample, dtype):
    """A gradient with respect to a law is a law of sensitivities; jvp is its inner product with a direction."""
    x = tuple(sample(law.inputs, 1)[:, 0].astype(dtype))
    primals = (jax.tree.map(dtype, law), *x)
    tangents = jax.tree.map(lambda p: dtype(0.01 * p), primals)
    value, tangent = jax.jvp(call, primals, tangents)
    gradient = jax.grad(call, argnums=range(len(primals)))(*primals)
    assert type(gradient[0]) is type(law)
    products = jax.tree.leaves(jax.tree.map(lambda g, t: float(g) * float(t), gradient, tangents))
    np.testing.assert_allclose(tangent, sum(products), atol=10 * SAME[dtype] * float(value))


@every_law
def test_float32_over_the_whole_range(law, sample):
    """float32 against float64 at the same inputs: values, and elasticities with respect to inputs and constants."""
    x = sample(law.inputs, 10_000)

    def value_and_elasticities(law, *x):
        value, slopes = jax.vmap(jax.value_and_grad(call, argnums=range(1 + len(x))), (None, *(0 for _ in x)))(law, *x)
        constants = jax.tree.leaves(jax.tree.map(jnp.multiply, slopes[0], law))
        inputs = [slope * v for slope, v in zip(slopes[1:], x, strict=True)]
        return value, jnp.stack([slope / value for slope in constants + inputs])

    short, short_slopes = jax.jit(value_and_elasticities)(law, *x.astype(np.float32))
    with jax.enable_x64(True):
        long, long_slopes = map(np.asarray, jax.jit(value_and_elasticities)(law, *x))
    assert short.dtype == np.float32 and long.dtype == np.float64
    limit = IMPLICIT if isinstance(law, laws.KaplanNSB) else CLOSED
    np.testing.assert_allclose(short, long, rtol=limit[np.float32])
    np.testing.assert_allclose(short_slopes, long_slopes, atol=GRADIENT32)
    assert np.all(np.isfinite(long)) and np.all(np.max(np.abs(long_slopes[-len(x):]), axis=1) > 0.01)


@every_law
def test_traced_once(law, sample):
    """New constants and new inputs of the same shapes trace nothing anew: neither a law nor a caller's jit of one."""
    traces = []

    def counted(law, *inputs):
        traces.append(law)
        return type(law).__call__.__wrapped__(law, *inputs)

    x = sample(law.inputs, 3)
    own, outer = base.formula(counted), jax.jit(lambda *args: counted(*args))
    for factor in (1.0, 1.01, 0.99):
        for call_ in (own, outer):
            call_(scaled(law, factor), *(factor * x))
    assert len(traces) == 2
    for factor in (1.0, 1.01, 0.99):
        own(scaled(law, factor), *(float(factor * value) for value in x[:, 0]))
    assert len(traces) == 3


# What a law takes


@every_law
def test_kinds_of_input(law, dtype):
    """Numbers, lists, tuples, NumPy and JAX arrays, and integers above 2^31 and 2^64: the same loss for all."""
    if law.inputs == ("loss",):  # a power that leaves something of a loss of 7e9
        law = laws.CriticalBatchSize(B_star=1.7e8, alpha_B=2.0)
    if law.signed:  # a slope that an area of 1e21 leaves something of
        law = dataclasses.replace(law, C=1e-23)
    inputs = [7 * 10**9 + i for i in range(len(law.inputs))]
    want = law(*map(float, inputs))
    assert want.shape == () and want.dtype == dtype and want > 0
    for convert in (int, np.float64, np.int64, np.asarray, jnp.float32, np.float32):
        np.testing.assert_allclose(law(*map(convert, inputs)), want, rtol=SAME[np.float32])
    columns = [[value, 3 * value, 5 * value] for value in inputs]
    want = law(*(np.array(column, float) for column in columns))
    assert want.shape == (3,)
    for convert in (list, tuple, np.array, lambda column: np.array(column, object)):
        np.testing.assert_array_equal(law(*map(convert, columns)), want)
    np.testing.assert_array_equal(law(columns[0], *map(float, inputs[1:])).shape, (3,))
    by_name = dict(zip(law.inputs, columns, strict=True))
    np.testing.assert_array_equal(law(**by_name), want)
    assert np.isfinite(law(*([10**20, 10**21] for _ in inputs))).all()


def test_integer_constants():
    """A constant typed as an integer above 2^31 is the float of the same size."""
    assert laws.KaplanN(N_c=88 * 10**12, alpha_N=0.076)(10**9) == laws.published["kaplan2020-n"](1e9)


@pytest.mark.parametrize("wrong", ["1e9", True, b"1"])
def test_text_and_truth_values_are_refused(wrong):
    with pytest.raises(TypeError, match="numbers"):
        laws.published["hoffmann2022"](wrong, 1e10)


# Records


@every_law
def test_record(law):
    """A pytree that JAX may rebuild with anything in its fields, frozen, hashable, equal to itself alone."""
    leaves, structure = jax.tree.flatten(law)
    assert leaves == [getattr(law, name) for name in law.constants]
    for filling in (None, True, object()):
        filled = jax.tree.unflatten(structure, [filling] * len(leaves))
        assert type(filled) is type(law)
        assert all(getattr(filled, name) is filling for name in law.constants)
    assert jax.tree.map(lambda _: None, law, is_leaf=lambda x: x is None).constants == law.constants
    traced = jax.jit(lambda law: jax.tree.map(jnp.negative, law))(law)
    np.testing.assert_allclose(jax.tree.leaves(traced), [-leaf for leaf in leaves], rtol=1e-6)
    assert law == law and law != scaled(law, 1.0) and isinstance(hash(law), int)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(law, next(iter(law.constants)), 1.0)


@every_law
def test_transform_round_trip(law, dtype):
    vector = base.to_unconstrained(law)
    assert vector.shape == (len(law.constants),) and vector.dtype == dtype
    logs = [np.log(value) if law.constants[name].positive else value for name, value in dataclasses.asdict(law).items()]
    np.testing.assert_allclose(vector, logs, rtol=SAME[dtype])
    back = base.from_unconstrained(type(law), vector)
    assert type(back) is type(law)
    # An ulp of log N_c = 33 is 4e-6 in float32.
    np.testing.assert_allclose(jax.tree.leaves(back), jax.tree.leaves(law), rtol={np.float32: 1e-5}.get(dtype, 1e-14))
    batch = jax.tree.map(lambda *constants: np.array(constants), law, scaled(law, 1.1))
    both = base.to_unconstrained(batch)
    assert both.shape == (2, len(law.constants))
    np.testing.assert_allclose(both[0], vector, rtol=SAME[dtype])
    floats = base.as_floats(back)
    assert all(type(value) is float for value in jax.tree.leaves(floats))
    assert all(value.dtype == np.float64 for value in jax.tree.leaves(base.as_floats(batch)))


def test_zero_floor_survives_the_transform(x64):
    law = laws.published["su2024-c4"]
    back = base.from_unconstrained(laws.KaplanNSB, base.to_unconstrained(law))
    assert back.E == 0.0 and np.isclose(back(1e9, 1e5, 1e6), law(1e9, 1e5, 1e6), rtol=1e-13)


# What a law says of itself


def test_constants_are_declared():
    """Constants of ours are positive and unbounded above; the floors of three laws may be 0, and are held there; the
    slopes and the level of the routed laws' log have signs of their own, and annealing may do nothing."""
    floors = {("kaplan-ns", "E"), ("kaplan-nsb", "E"), ("power-law", "E")}
    logs = {(law, name): 0.0 if name in "ab" else np.inf for law in ("moe", "moe-experts") for name in "abcd"}
    for name, Law in laws.catalogue.items():
        assert list(Law.constants) == [field.name for field in dataclasses.fields(Law)]
        for constant, about in Law.constants.items():
            if (name, constant) == ("annealing", "C"):
                assert (about.positive, about.lower, about.upper, about.default) == (False, 0.0, np.inf, None)
                continue
            if (name, constant) in logs:
                assert (about.positive, about.lower, about.upper) == (False, -np.inf, logs[name, constant])
                continue
            assert about.lower == 0.0 and about.upper == np.inf
            floor = (name, constant) in floors
            assert (about.positive, about.default) == ((False, 0.0) if floor else (True, None))
    eta = OverTrained.constants["eta"]
    assert (eta.positive, eta.lower, eta.upper, eta.default) == (False, -2.0, 0.0, None)
    for Law in (*laws.catalogue.values(), OverTrained):
        for about in Law.constants.values():
            low, high = about.search  # where a fit first looks
            assert about.lower <= low < high <= about.upper and (low > 0 or not about.positive)


def test_catalogue():
    said = {name: (Law.__name__, Law.inputs, Law.output) for name, Law in laws.catalogue.items()}
    assert said == {
        "chinchilla": ("Chinchilla", ("N", "D"), "loss"),
        "data-constrained": ("DataConstrained", ("N", "D", "unique_tokens"), "loss"),
        "kaplan-n": ("KaplanN", ("N",), "loss"),
        "kaplan-d": ("KaplanD", ("D",), "loss"),
        "kaplan-nd": ("KaplanND", ("N", "D"), "loss"),
        "kaplan-ns": ("KaplanNS", ("N", "S"), "loss"),
        "kaplan-nsb": ("KaplanNSB", ("N", "S", "B"), "loss"),
        "critical-batch-size": ("CriticalBatchSize", ("loss",), "B_crit"),
        "power-law": ("PowerLaw", ("x",), "loss"),
        "shifted-power-law": ("ShiftedPowerLaw", ("x",), "loss"),
        "sigmoid-power-law": ("SigmoidPowerLaw", ("x",), "loss"),
        "broken-power-law": ("BrokenPowerLaw", ("x",), "loss"),
        "context": ("ContextLength", ("N", "D", "n_ctx"), "loss"),
        "moe": ("MoE", ("N_active", "N_total"), "loss"),
        "moe-experts": ("MoEExperts", ("N", "experts"), "loss"),
        "annealing": ("Annealing", ("S1", "S2"), "loss"),
    }
    assert all(getattr(laws, Law.__name__) is Law and Law.__doc__ for Law in laws.catalogue.values())


def test_published_constants():
    """SCIENCE.md, and Table 3 of Clark et al. 2022, to the digit."""
    assert {name: dataclasses.asdict(law) for name, law in laws.published.items()} == {
        "su2024-c4": dict(N_c=1.5e14, alpha_N=0.076, S_c=2.6e3, alpha_S=0.67, B_star=1.7e8, alpha_B=0.205, E=0.0),
        "kaplan2020-webtext2":
            dict(N_c=6.5e13, alpha_N=0.076, S_c=2.1e3, alpha_S=0.76, B_star=2.1e8, alpha_B=0.21, E=0.0),
        "kaplan2020-joint": dict(N_c=6.4e13, alpha_N=0.076, D_c=1.8e13, alpha_D=0.103),
        "kaplan2020-n": dict(N_c=8.8e13, alpha_N=0.076),
        "kaplan2020-d": dict(D_c=5.4e13, alpha_D=0.095),
        "hoffmann2022": dict(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
        "besiroglu2024": dict(E=1.8169, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),
        "muennighoff2023-base": dict(E=1.869, A=520.8, B=1487.7, alpha=0.3527, beta=0.3527),
        "clark2022-s-base": dict(a=-0.082, b=-0.108, c=0.009, d=1.104, E_start=1.847, E_max=314.478),
        "clark2022-rl-r": dict(a=-0.083, b=-0.126, c=0.012, d=1.111, E_start=1.880, E_max=469.982),
        "clark2022-hash": dict(a=-0.087, b=-0.136, c=0.012, d=1.157, E_start=4.175, E_max=477.741),
        "muennighoff2023": dict(E=1.869, A=520.8, B=1487.7, alpha=0.3527, beta=0.3527, R_D=15.39, R_N=5.31),
    }
    assert laws.provenance.keys() == laws.published.keys()
    for name, law in laws.published.items():
        about = laws.provenance[name]
        assert all(type(value) is float for value in jax.tree.leaves(law))  # follow the caller's precision
        assert about.source and about.counts and set(about.ranges) <= set(law.inputs)
        assert all(0 < low < high for low, high in about.ranges.values())


def test_a_declaration_that_cannot_work_is_refused():
    with pytest.raises(TypeError, match=r"Loose.a must be declared with jaxscale.constant"):
        @jsc.law(inputs=("N",))
        class Loose:
            a: float = 1.0

            def __call__(self, N):
                return self.a * N

    with pytest.raises(TypeError, match=r"Swapped.__call__ must take the inputs \('N', 'D'\) in that order"):
        @jsc.law(inputs=("N", "D"))
        class Swapped:
            a: float = jsc.constant(positive=True)

            def __call__(self, D, N):
                return self.a * N * D

    with pytest.raises(TypeError, match="B_star"):
        laws.CriticalBatchSize(alpha_B=0.2)


def test_a_law_of_one_input_named_by_a_string():
    @jsc.law(inputs="B", output="S")
    class StepsToLoss:
        """S = S_min + E_min / B."""

        S_min: float = jsc.constant(positive=True)
        E_min: float = jsc.constant(positive=True)

        def __call__(self, B):
            return self.S_min + self.E_min / B

    assert StepsToLoss.inputs == ("B",) and StepsToLoss.output == "S"
    assert StepsToLoss(S_min=1e3, E_min=1e8)(10**5) == 2000


# What single laws promise (KaplanNSB: test_kaplan_nsb.py)


def test_doubling_the_parameters():
    law = laws.published["kaplan2020-n"]
    assert round(float(law(2e9) / law(1e9)), 2) == 0.95


@pytest.mark.parametrize("name", ["chinchilla", "kaplan-nd", "kaplan-ns"])
def test_minimum_loss_is_the_limit(name, sample, x64):
    law, (N,) = EXAMPLES[name], sample("N", 50)
    np.testing.assert_allclose(law.minimum_loss(N), law(N, 1e300), rtol=1e-12)


def test_minimum_steps_invert_the_law(sample, x64):
    law, (N, S) = EXAMPLES["kaplan-ns"], sample(("N", "S"), 50)
    # Near the floor the excess is what is left of two equal losses.
    excess = (law(N, S) - law.minimum_loss(N)) / law(N, S)
    np.testing.assert_allclose(law.minimum_steps(N, law(N, S)) / S, 1, atol=1e-14 / excess.min())
    assert law.minimum_steps(1e9, law.minimum_loss(1e9)) == np.inf == law.minimum_steps(1e9, 0.1)
    assert np.isfinite(jax.grad(law.minimum_steps, argnums=1)(1e9, 0.1))


def test_tokens_to_avoid_overfitting(sample, x64):
    """SCIENCE.md: D >= 5e3 N^0.74 at delta = 0.02, so 8 times the model needs about 5 times the data."""
    law, (N,) = laws.published["kaplan2020-joint"], sample("N", 50)
    for delta in (0.001, 0.02, 0.5):
        D = law.tokens_to_avoid_overfitting(N, delta)
        np.testing.assert_allclose(law(N, D), (1 + delta) * law.minimum_loss(N), rtol=1e-12)
    D = law.tokens_to_avoid_overfitting(N)
    np.testing.assert_array_equal(D, law.tokens_to_avoid_overfitting(N, delta=0.02))
    assert round(np.polyfit(np.log(N), np.log(D), 1)[0], 2) == 0.74
    assert 4.5e3 < law.tokens_to_avoid_overfitting(1e9) / 1e9**0.74 < 5.5e3
    assert 4.5 < law.tokens_to_avoid_overfitting(8e9) / law.tokens_to_avoid_overfitting(1e9) < 5


# Routed laws (Clark et al. 2022, as cited in laws/moe.py)


def test_one_expert_is_a_dense_model(x64):
    """Their dense law (3.568e13 / N)^0.078, to the 3% that three printed digits and another fit leave; base 10."""
    N = np.array([1.5e7, 1e8, 1.3e9])
    for router in ("s-base", "rl-r", "hash"):
        law = laws.published[f"clark2022-{router}"]
        np.testing.assert_allclose(law(N, 1.0), (3.568e13 / N) ** 0.078, rtol=0.03)
        np.testing.assert_allclose(law.effective_parameters(N, 1.0), N, rtol=1e-12)
        np.testing.assert_allclose(law(N, 64.0), law(law.effective_parameters(N, 64.0), 1.0), rtol=1e-12)
        np.testing.assert_allclose(law(N, 1e30), 10 ** (law.a * np.log10(N) + law.b * np.log10(law.E_max) + law.d
                                   + law.c * np.log10(N) * np.log10(law.E_max)), rtol=1e-12)


def test_published_worth_of_experts(x64):
    """N = 5e6 with 128 experts is like a dense model of 55M; experts stop helping at 937B, 85B, 83B, within what the
    rounding of b and c to three decimals leaves open."""
    assert laws.published["clark2022-s-base"].effective_parameters(5e6, 128) == pytest.approx(5.5e7, rel=0.1)
    for router, cutoff in {"s-base": 9.37e11, "rl-r": 8.5e10, "hash": 8.3e10}.items():
        law = laws.published[f"clark2022-{router}"]
        low, high = (dataclasses.replace(law, b=law.b + move, c=law.c + move).cutoff() for move in (5e-4, -5e-4))
        assert low < cutoff < high
        N = law.cutoff()
        np.testing.assert_allclose(law(N, [1.0, 8.0, 512.0]), law(N, 1.0), rtol=1e-12)


def test_moe_by_parameters_is_moe_by_experts(sample, x64):
    """With every parameter in the experts, R = N_total / N_active is their number."""
    by_experts, by_size, (N, experts) = EXAMPLES["moe-experts"], EXAMPLES["moe"], sample(("N", "experts"), 50)
    np.testing.assert_allclose(by_size(N, N * experts), by_experts(N, experts), rtol=1e-13)
    dense = by_experts.effective_parameters(N, experts)
    np.testing.assert_allclose(by_size.effective_parameters(N, N * experts), dense, rtol=1e-12)


# The context length


def test_loss_of_a_context_is_the_mean_over_its_positions(x64):
    """Brute force: the mean of `at_position`, less zeta(gamma) (1 - gamma) K / n, the Euler-Maclaurin term."""
    from scipy.special import zeta

    law, n = EXAMPLES["context"], 4096
    mean = np.mean(law.at_position(1e9, 2e10, np.arange(1.0, n + 1)))
    np.testing.assert_allclose(mean - zeta(law.gamma) * (1 - law.gamma) * law.K / n, law(1e9, 2e10, n), rtol=1e-5)
    slope = jax.grad(lambda n: n * law(1e9, 2e10, n))(float(n))
    np.testing.assert_allclose(slope, law.at_position(1e9, 2e10, n), rtol=1e-13)


@pytest.mark.parametrize("module", ["roots", "units", "laws.base", "laws.chinchilla", "laws.kaplan", "laws.kaplan_nsb",
                                    "laws.power", "laws.sigmoid", "laws.context", "laws.moe"])
def test_examples_in_docstrings(module):
    outcome = doctest.testmod(importlib.import_module(f"jaxscale.{module}"))
    assert outcome.attempted > 0 and outcome.failed == 0
