"""Counts and units at the edge: parameters and FLOPs of an architecture, PF-days, bits.

Inside, compute is FLOPs, data is tokens, loss is nats per token. A cost model is a function of N that gives the
training FLOPs of one token, so C = flops_per_token(N) D; `six_n` is the default wherever C appears, and `kaplan_cost`
and `hoffmann_cost` count attention and embeddings too.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxscale.errors import InputError

PF_DAY = 1e15 * 24 * 3600  # FLOPs
"""One petaFLOP/s-day, 8.64e19 FLOPs."""


def six_n(N):
    """Training FLOPs per token, 6 N: forward 2 N, backward 4 N (Kaplan et al. 2020, section 2.1)."""
    return 6 * N


def bits_to_nats(bits):
    """Bits per token as nats per token."""
    return bits * math.log(2)


def bits_per_byte_to_nats(bits, bytes_per_token):
    """Bits per byte as nats per token, given the mean bytes a token stands for."""
    return bits * math.log(2) * bytes_per_token


def non_embedding_parameters(d_model, n_layer, d_attn=None, d_ff=None):
    """Parameters without embeddings, N = 2 d_model n_layer (2 d_attn + d_ff) (Kaplan et al. 2020, Table 1).

    `d_attn` (all heads together) is d_model and `d_ff` is 4 d_model unless given: then N = 12 n_layer d_model^2.

    Example:
      >>> non_embedding_parameters(d_model=1600, n_layer=48)
      1474560000
    """
    d_attn = d_model if d_attn is None else d_attn
    d_ff = 4 * d_model if d_ff is None else d_ff
    return 2 * d_model * n_layer * (2 * d_attn + d_ff)


def kaplan_flops_per_token(d_model, n_layer, n_ctx, n_vocab=0, d_attn=None, d_ff=None):
    """Training FLOPs per token with attention, 3 (2 N + 2 n_layer n_ctx d_attn) (Kaplan et al. 2020, Table 1).

    A vocabulary above 0 adds the embedding, 4 d_model, and the de-embedding, 2 d_model n_vocab. Backward is twice
    forward.

    Example:
      >>> kaplan_flops_per_token(d_model=1600, n_layer=48, n_ctx=1024)
      9319219200
    """
    d_attn = d_model if d_attn is None else d_attn
    forward = 2 * non_embedding_parameters(d_model, n_layer, d_attn, d_ff) + 2 * n_layer * n_ctx * d_attn
    return 3 * (forward + (4 * d_model + 2 * d_model * n_vocab if n_vocab else 0))


def hoffmann_flops_per_sequence(d_model, n_layer, n_ctx, n_vocab, n_head, d_head=None, d_ff=None):
    """Training FLOPs of a sequence of n_ctx tokens (Hoffmann et al. 2022, Appendix F).

    With s = n_ctx, d = d_model, h = n_head, k = d_head (d / h unless given), f = d_ff (4 d), V = n_vocab:
    embeddings 2 s V d; each layer 6 s d k h + 2 s^2 k h + 3 h s^2 + 2 s^2 k h + 2 s k h d + 4 s d f; logits 2 s d V;
    backward twice forward. Divide by n_ctx for FLOPs per token.

    Example:
      >>> f"{hoffmann_flops_per_sequence(640, 10, 2048, 32000, 10):.3e}"
      '1.433e+12'
    """
    s, d, h, V = n_ctx, d_model, n_head, n_vocab
    k = d // h if d_head is None else d_head
    f = 4 * d if d_ff is None else d_ff
    layer = 6 * s * d * k * h + 4 * s * s * k * h + 3 * h * s * s + 2 * s * k * h * d + 4 * s * d * f
    return 3 * (2 * s * V * d + n_layer * layer + 2 * s * d * V)


def kaplan_cost(n_ctx, n_vocab=0, *, aspect=100.0, embeddings=False):
    """`kaplan_flops_per_token` as a smooth function of N alone, for transformers of one shape.

    Width and depth follow from N: n_layer = d_model / aspect, with d_attn = d_model and d_ff = 4 d_model, so that
    N = 12 d_model^3 / aspect without embeddings.

    Args:
      n_ctx: tokens a sequence; n_vocab: tokens of the vocabulary, whose embedding is counted if above 0.
      aspect: d_model / n_layer; GPT-2 XL has 33, Chinchilla 102, GPT-3 128.
      embeddings: whether N holds the n_vocab d_model embeddings: then N = 12 d_model^3 / aspect + n_vocab d_model.

    Returns:
      A function of N (numbers, NumPy or JAX arrays) for `flops_per_token=`; it is a pytree of its arguments, so others
      compile nothing anew, and derivatives go through them.

    Raises:
      InputError: an argument is not a positive number (n_vocab may be 0).

    Example:
      >>> gpt2 = kaplan_cost(1024, aspect=1600 / 48)
      >>> round(gpt2(1474560000), -3), kaplan_flops_per_token(d_model=1600, n_layer=48, n_ctx=1024)
      (9319219000.0, 9319219200)
    """
    _check_shape(n_ctx=n_ctx, n_vocab=n_vocab, aspect=aspect)
    n_vocab = float(n_vocab) or None
    return Partial(_kaplan, float(n_ctx), n_vocab, float(aspect), n_vocab if embeddings else None)


def hoffmann_cost(n_ctx, n_vocab, *, aspect=100.0, d_head=128, embeddings=True):
    """`hoffmann_flops_per_sequence` per token as a smooth function of N alone, for transformers of one shape.

    As `kaplan_cost`, with heads of size `d_head`, n_head = d_model / d_head of them. N holds the embeddings unless
    embeddings=False; positions are not counted.

    Example:
      >>> d, layers = 8192, 80  # Chinchilla
      >>> cost = hoffmann_cost(2048, 32000, aspect=d / layers)
      >>> exact = hoffmann_flops_per_sequence(d, layers, 2048, 32000, n_head=64) / 2048
      >>> f"{cost(12 * layers * d**2 + 32000 * d):.6g} {exact:.6g}"
      '4.05893e+11 4.05893e+11'
    """
    _check_shape(n_ctx=n_ctx, n_vocab=n_vocab, aspect=aspect, d_head=d_head)
    counted = float(n_vocab) or None if embeddings else None
    return Partial(_hoffmann, float(n_ctx), float(n_vocab), float(aspect), float(d_head), counted)


def _check_shape(n_vocab, **others):
    for name, value in {"n_vocab": n_vocab, **others}.items():
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not (number and 0 <= value < math.inf and (value > 0 or name == "n_vocab")):
            raise InputError(f"{name} must be a positive number, not {value!r}.")


def _width(N, aspect, counted):
    """d_model of N = 12 d_model^3 / aspect + counted d_model, `counted` of the vocabulary or None."""
    if counted is None:
        return (aspect / 12 * N) ** (1 / 3)
    numpy = np if isinstance(N, int | float | np.ndarray | np.generic) else jnp
    s = numpy.sqrt(aspect / 36 * counted)  # the cubic's one root; no powers that float32 cannot hold
    return 2 * s * numpy.sinh(numpy.arcsinh(aspect / 24 * N / s / s / s) / 3)


def _kaplan(n_ctx, n_vocab, aspect, counted, N):
    d = _width(N, aspect, counted)
    forward = 24 * d**3 / aspect + 2 * n_ctx * d**2 / aspect
    return 3 * (forward if n_vocab is None else forward + 4 * d + 2 * d * n_vocab)


def _hoffmann(n_ctx, n_vocab, aspect, d_head, counted, N):
    d = _width(N, aspect, counted)
    layer = 24 * d**2 + 4 * n_ctx * d + 3 * n_ctx * d / d_head
    return 3 * (4 * n_vocab * d + d / aspect * layer)
