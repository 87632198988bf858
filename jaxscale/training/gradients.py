"""Gradient noise scales, measured where a model trains: plain functions of the gradients of micro-batches.

All of them take gradients of losses averaged over micro-batches of equal size: of gradient accumulation, of devices, or
single examples (`jax.vmap` of `jax.grad`; `batch` is then the tokens of one). Norms are summed in float32 at least.
Micro-batches must be independent draws: neighbouring pieces of one document are not, and the scales come out far too
large. On a real model the gain of a step is 1/(1 + B_noise/B) by `curvature_noise` (benchmarks/best_steps.md).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxscale.errors import InputError


class Noise(NamedTuple):
    """A signal and a noise estimated from micro-batches: the scale is the batch size at which they are equal.

    Numbers, or arrays [1 + layers] where a `depth` was asked for: the whole first, then as in `layer_names`.

    Attributes:
        signal: |G|^2 (`gradient_noise`) or G^T H G (`curvature_noise`), unbiased, so it can be negative.
        noise: tr(Sigma) or tr(H Sigma), times one token (or whatever unit `batch` was in), unbiased.
    """

    signal: jax.Array
    noise: jax.Array

    @property
    def scale(self):
        """noise / signal, in the unit of `batch`. Average signals and noises apart before dividing."""
        return self.noise / self.signal


def _count(gradients):
    """K, the length that all leaves' leading axes share; shapes are known under jit too."""
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(gradients)}
    if len(counts) != 1 or counts == {()} or min(counts) < (2,):
        raise InputError("gradients must be stacked, each leaf with one leading axis of the same K >= 2 micro-batches; "
                         f"the leading axes are {sorted(counts)}: stack them with jax.tree.map or jax.vmap.")
    return counts.pop()[0]


def _wide(leaf):
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def _inner(left, right):
    """Inner product of two pytrees; no leaf is flattened, which would gather one sharded over devices."""
    return sum(jnp.sum(_wide(a) * _wide(b)) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


def layer_names(tree, depth=1):
    """The names that per-layer values [1 + layers] belong to: "all", then the keys of the pytree down to a depth.

    Depth 1 is the top-level keys, 2 those of Flax's {"params": {...}}; 0 is the whole alone.

    >>> import jax.numpy as jnp
    >>> from jaxscale import training
    >>> training.layer_names({"up": {"w": jnp.ones(2), "b": jnp.ones(1)}, "down": jnp.ones(2)})
    ('all', 'down', 'up')
    """
    return ("all", *dict.fromkeys(_keys(tree, depth))) if depth else ("all",)


def _keys(tree, depth):
    return [jax.tree_util.keystr(path[:depth], simple=True, separator="/")
            for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def squared_norm(tree, depth=0):
    """|tree|^2, in float32 at least; with a depth, an array [1 + layers] in the order of `layer_names`.

    >>> import jax.numpy as jnp
    >>> from jaxscale import training
    >>> training.squared_norm({"up": jnp.array([3.0, 4.0]), "down": jnp.array([2.0])}, depth=1).tolist()
    [29.0, 4.0, 25.0]
    """
    if not depth:
        return _inner(tree, tree)
    layers = {}
    for key, leaf in zip(_keys(tree, depth), jax.tree.leaves(tree), strict=True):
        layers[key] = layers.get(key, 0) + _inner(leaf, leaf)
    return jnp.stack([sum(layers.values()), *layers.values()])


def noise_of_norms(mean_of_squares, square_of_mean, count, batch):
    """|G|^2 and tr(Sigma), unbiased, from norms at two batch sizes (McCandlish et al. 2018, appendix A.1).

    Args:
        mean_of_squares: the mean of |g_i|^2 over gradients at `batch`; or one of them, noisier.
        square_of_mean: |g|^2 at the batch size `count * batch`.
        count: how many times larger that is, above 1.
        batch: tokens (or sequences) of the smaller.

    >>> from jaxscale import training
    >>> found = training.noise_of_norms(9.0, 8.0, count=2, batch=512)
    >>> found.signal, found.noise
    (7.0, 1024.0)
    """
    noise = (mean_of_squares - square_of_mean) * count / (count - 1)  # of one micro-batch
    return Noise(square_of_mean - noise / count, noise * batch)


def gradient_noise(gradients, batch, depth=0):
    """|G|^2 and tr(Sigma), unbiased, from the gradients of K >= 2 micro-batches of `batch` tokens.

    With g_i of variance Sigma / batch about G (McCandlish et al. 2018, appendix A.1):
    tr(Sigma) = batch K/(K-1) (mean |g_i|^2 - |mean g_i|^2), |G|^2 = |mean g_i|^2 - tr(Sigma)/(batch K).
    The simple noise scale tr(Sigma)/|G|^2 is `.scale`.

    Args:
        gradients: pytree whose leaves have a leading axis of K micro-batches.
        batch: tokens (or sequences) in one micro-batch.
        depth: 0 for the whole, 1 for values by top-level key too, as in `layer_names`.

    Raises:
        InputError: where the leaves do not share a leading axis of 2 or more.

    >>> import jax.numpy as jnp
    >>> from jaxscale import training
    >>> found = training.gradient_noise({"w": jnp.array([[1.0, 2.0], [3.0, 2.0]])}, batch=512)
    >>> float(found.signal), float(found.noise)
    (7.0, 1024.0)
    """
    count = _count(gradients)
    mean = jax.tree.map(lambda value: value.mean(axis=0), gradients)
    return noise_of_norms(squared_norm(gradients, depth) / count, squared_norm(mean, depth), count, batch)


def curvature_noise(gradients, batch, product):
    """G^T H G and tr(H Sigma), unbiased: the two sides of Eq 3.6 of Su et al. 2024, `.scale` is its B_noise.

    G^T H G can be negative where H is indefinite; a step along G then has no best size and B_noise no meaning.

    Args:
        gradients: pytree whose leaves have a leading axis of K >= 2 micro-batches.
        batch: tokens (or sequences) in one micro-batch.
        product: v -> H v, a pytree to its like (`hessian_product`, `gauss_newton_product`), of other data than the
            gradients; called K + 1 times.

    >>> import jax.numpy as jnp
    >>> from jaxscale import training
    >>> found = training.curvature_noise(jnp.array([[1.0, 2.0], [3.0, 2.0]]), 512, lambda v: v * jnp.array([2.0, 1.0]))
    >>> float(found.signal), float(found.noise)
    (10.0, 2048.0)
    """
    count = _count(gradients)
    mean = jax.tree.map(lambda value: value.mean(axis=0), gradients)
    forms = jax.lax.map(lambda gradient: _inner(gradient, product(gradient)), gradients)
    return noise_of_norms(forms.mean(), _inner(mean, product(mean)), count, batch)


def hessian_product(loss, params):
    """v -> H v, with H the Hessian of the scalar function `loss` at `params` (forward over reverse).

    >>> import jax.numpy as jnp
    >>> from jaxscale import training
    >>> product = training.hessian_product(lambda w: (w**4).sum(), jnp.array([1.0, 2.0]))
    >>> product(jnp.array([1.0, 1.0])).tolist()
    [12.0, 48.0]
    """
    return lambda vector: jax.jvp(jax.grad(loss), (params,), (vector,))[1]


def gauss_newton_product(model, loss, params):
    """v -> J^T H_out J v: the Gauss-Newton matrix of `loss(model(params))`, never indefinite for a convex loss.

    Args:
        model: params -> outputs (logits), any shape.
        loss: outputs -> scalar, convex (cross-entropy, squares).
        params: pytree.

    >>> import jax.numpy as jnp
    >>> from jaxscale import training
    >>> product = training.gauss_newton_product(lambda w: w**2, lambda out: 0.5 * (out**2).sum(), jnp.array([1.0, 2.0]))
    >>> product(jnp.array([1.0, 1.0])).tolist()
    [4.0, 16.0]
    """

    def product(vector):
        outputs, change = jax.jvp(model, (params,), (vector,))
        _, back = jax.vjp(model, params)
        return back(hessian_product(loss, outputs)(change))[0]

    return product
