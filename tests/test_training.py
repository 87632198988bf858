"""Oracles: closed forms on a noisy quadratic (H, Sigma and G known), and the matrices written out by jax.hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxscale as jsc
from jaxscale import training

H = np.diag([3.0, 1.0, 0.2, -0.5])  # indefinite, as real Hessians are
SIGMA = np.diag([1.0, 4.0, 9.0, 2.0])  # of one token
BATCH = 64


def estimates(G, count=8, trials=4000):
    """Many independent estimates [trials] of both kinds from `count` micro-batches each."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((trials, count, 4)) @ np.sqrt(SIGMA / BATCH)
    gradients = {"a": jnp.asarray(G[:1] + noise[..., :1]), "b": jnp.asarray(G[1:] + noise[..., 1:])}

    def product(v):
        return {"a": v["a"] * H[0, 0], "b": v["b"] * np.diag(H)[1:]}

    def both(found):
        return training.gradient_noise(found, BATCH), training.curvature_noise(found, BATCH, product)

    return jax.vmap(both)(gradients)


@pytest.mark.parametrize("G", [np.array([0.3, -0.2, 0.1, 0.4]), np.array([0.0, 0.0, 0.1, 1.0])])
def test_unbiased_on_a_noisy_quadratic(G):
    simple, curved = estimates(G)
    for found, true in [(simple.signal, G @ G), (simple.noise, np.trace(SIGMA)),
                        (curved.signal, G @ H @ G), (curved.noise, np.trace(H @ SIGMA))]:
        found = np.asarray(found, np.float64)
        assert abs(found.mean() - true) < 4 * found.std() / len(found) ** 0.5


def test_scale_is_the_ratio_and_exact_without_estimation_error():
    # Two micro-batches at G + s and G - s: the noise is exactly 2 s s^T a micro-batch, the mean exactly G.
    G, s = jnp.array([2.0, -1.0]), jnp.array([0.5, 0.25])
    found = training.gradient_noise(jnp.stack([G + s, G - s]), 10)
    assert float(found.noise) == pytest.approx(10 * 2 * float(s @ s))
    assert float(found.signal) == pytest.approx(float(G @ G) - float(s @ s))
    assert float(found.scale) == pytest.approx(float(found.noise / found.signal))


def test_a_signal_can_be_negative_where_the_curvature_is():
    _, curved = estimates(np.array([0.0, 0.0, 0.0, 3.0]))
    assert np.mean(np.asarray(curved.signal)) < 0


def model(params):
    return jnp.tanh(params["w"] @ jnp.array([0.3, -0.7])) * params["c"]


def cross_entropy(scores):
    return jax.nn.logsumexp(scores) - scores[1]


PARAMS = {"c": jnp.array([0.5, -1.5, 2.0]), "w": jnp.arange(6.0).reshape(3, 2) / 5}
VECTOR = {"c": jnp.array([1.0, 0.5, -1.0]), "w": jnp.ones((3, 2)) * 0.3}


def test_products_are_those_of_the_matrices_written_out():
    from jax.flatten_util import ravel_pytree

    flat, unravel = ravel_pytree(PARAMS)
    vector, _ = ravel_pytree(VECTOR)
    hessian = jax.hessian(lambda p: cross_entropy(model(unravel(p))))(flat)
    jacobian = jax.jacobian(lambda p: model(unravel(p)))(flat)
    outer = jax.hessian(cross_entropy)(model(PARAMS))
    found, _ = ravel_pytree(training.hessian_product(lambda p: cross_entropy(model(p)), PARAMS)(VECTOR))
    np.testing.assert_allclose(found, hessian @ vector, rtol=2e-5, atol=1e-6)
    found, _ = ravel_pytree(training.gauss_newton_product(model, cross_entropy, PARAMS)(VECTOR))
    np.testing.assert_allclose(found, jacobian.T @ outer @ jacobian @ vector, rtol=2e-5, atol=1e-6)


def test_inside_jit_and_traced_once():
    traces = 0

    def scale(gradients):
        nonlocal traces
        traces += 1
        product = training.hessian_product(lambda p: cross_entropy(model(p)), PARAMS)
        return training.curvature_noise(gradients, 32, product).scale

    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf, 0.7 * leaf]), VECTOR)
    compiled = jax.jit(scale)
    assert float(compiled(stacked)) == pytest.approx(float(scale(stacked)), rel=1e-5)
    compiled(jax.tree.map(lambda leaf: leaf * 2, stacked))
    assert traces == 2  # the eager call and one trace


@pytest.mark.parametrize("gradients", [jnp.ones((1, 3)), jnp.float32(1.0), {},
                                       {"a": jnp.ones((4, 2)), "b": jnp.ones(3)}])
def test_gradients_that_are_not_stacked_are_refused(gradients):
    for measure in (lambda g: training.gradient_noise(g, 8), lambda g: training.curvature_noise(g, 8, lambda v: v)):
        with pytest.raises(jsc.InputError, match="leading axis of the same K >= 2"):
            measure(gradients)
