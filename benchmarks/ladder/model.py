"""The ladder's model and its training step: a decoder-only transformer over bytes.

Pre-norm, learned positions, squared-ReLU feed-forward of width 4 d, no biases, no gains, no dropout, so that the
non-embedding parameters are N = 12 n_layer d_model^2 exactly. Adam with a global-norm clip, linear warm-up, then a
constant learning rate. A matrix that reads hidden units has its learning rate divided by its fan-in over 16 (muP for
Adam, Yang et al. 2022, table 8), so that one learning rate serves many widths.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

VOCABULARY = 256
WARM_UP = 100  # steps
MICRO = 8  # windows whose gradient is computed at once: a CPU is fastest while they stay in its cache


class Shape(NamedTuple):
    layers: int
    width: int
    heads: int

    @property
    def parameters(self):
        """N: parameters without embeddings."""
        return 12 * self.layers * self.width**2

    def flops(self, context):
        """FLOPs of training on one token: forward and backward, with attention and the output matrix."""
        return 6 * self.parameters + 6 * self.layers * context * self.width + 6 * self.width * VOCABULARY


def init(key, shape, context):
    """Parameters: matrices of variance 1/fan-in, the output matrix zero."""
    n, d = shape.layers, shape.width
    keys = jax.random.split(key, 6)
    normal = jax.random.normal
    return {
        "embed": normal(keys[0], (VOCABULARY, d)),
        "position": 0.1 * normal(keys[1], (context, d)),
        "attend": normal(keys[2], (n, d, 3 * d)) / d**0.5,
        "project": normal(keys[3], (n, d, d)) / d**0.5 / (2 * n) ** 0.5,
        "up": normal(keys[4], (n, d, 4 * d)) / d**0.5,
        "down": normal(keys[5], (n, 4 * d, d)) / (4 * d) ** 0.5 / (2 * n) ** 0.5,
        "output": jnp.zeros((d, VOCABULARY)),
    }


def _norm(x):
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


def logits(params, tokens, heads, dtype=jnp.float32):
    """[rows, context, vocabulary] scores of the next byte."""
    params = jax.tree.map(lambda value: value.astype(dtype), params)
    rows, context = tokens.shape
    x = params["embed"][tokens] + params["position"][:context]
    d = x.shape[-1]
    mask = jnp.where(jnp.tril(jnp.ones((context, context), bool)), 0.0, -1e9).astype(dtype)
    for layer in range(params["up"].shape[0]):
        mixed = (_norm(x) @ params["attend"][layer]).reshape(rows, context, 3 * heads, d // heads)
        q, k, v = jnp.split(mixed, 3, axis=2)
        scores = jnp.einsum("rqhe,rkhe->rhqk", q, k) / (d // heads) ** 0.5 + mask
        mixed = jnp.einsum("rhqk,rkhe->rqhe", jax.nn.softmax(scores, axis=-1), v).reshape(rows, context, d)
        x = x + mixed @ params["project"][layer]
        x = x + jnp.square(jax.nn.relu(_norm(x) @ params["up"][layer])) @ params["down"][layer]
    return (_norm(x) @ params["output"]).astype(jnp.float32)


def cross_entropy(scores, targets):
    """Mean loss, nats a byte."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, targets))


def loss(params, windows, heads, dtype=jnp.float32):
    """Mean cross-entropy of the windows' bytes but the first, given those before."""
    windows = windows.astype(jnp.int32)
    return cross_entropy(logits(params, windows[:, :-1], heads, dtype), windows[:, 1:])


def _per_matrix(params):
    """The learning rate of each matrix over that of the embeddings: 16 / fan-in for those that read hidden units."""
    return {name: 1.0 if name in ("embed", "position") else 16 / value.shape[-2] for name, value in params.items()}


optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-12))


def gradients(params, windows, heads, dtype, micro=MICRO):
    """Mean loss and gradient over the windows, `micro` of them at a time."""
    parts = windows.reshape(-1, min(micro, windows.shape[0]), windows.shape[1])
    if parts.shape[0] == 1:
        return jax.value_and_grad(loss)(params, windows, heads, dtype)

    def add(total, part):
        return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(params, part, heads, dtype)), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zero, parts)
    return jax.tree.map(lambda value: value / parts.shape[0], total)


def step(params, state, windows, count, rate, heads, dtype=jnp.float32, micro=MICRO):
    """One step of training: parameters, optimiser state and the loss before it. `count` starts at 0."""
    value, gradient = gradients(params, windows, heads, dtype, micro)
    direction, state = optimiser.update(gradient, state, params)
    rate = rate * jnp.minimum(1.0, (count + 1) / WARM_UP)
    factors = _per_matrix(params)
    return {name: value - rate * factors[name] * direction[name] for name, value in params.items()}, state, value
