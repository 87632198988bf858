"""What a law is: a callable record of its constants.

    @law(inputs=("N", "D"))
    class Chinchilla:
        E: float = constant(positive=True)
        ...
        def __call__(self, N, D):
            return ...

The decorator makes the class a frozen dataclass that JAX knows as a pytree, so a law is an argument of `jit`, a batch
of fits is a law whose fields carry a leading axis, and a gradient with respect to a law is a law of sensitivities.
A law says its inputs, its output, and the sign, bounds and default of every constant; it knows nothing of optimisers.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Constant:
    """What a law says of one constant: its sign, its bounds, and the value that holds it unless it is freed."""

    positive: bool
    lower: float
    upper: float
    default: float | None
    search: tuple[float, float]


def constant(default=None, *, positive=False, lower=-math.inf, upper=math.inf, search=None):
    """A constant of a law: a dataclass field that carries its sign, bounds and default.

    Args:
      default: the value of a constant that is held at it unless named in `free=`; None for one that is always fitted.
      positive: the constant is above zero, and is fitted and reported on a log scale.
      lower, upper: bounds, in the constant's own units.
      search: (low, high) where a fit first looks. Without it: the bounds where both are finite, else 0.02..2 for a
        positive constant (most are exponents) and -2..2 for another. No matter for a constant that scales one term
        of a sum: a fit finds those in closed form.

    Example:
      >>> eta: float = constant(lower=-2.0, upper=0.0)
    """
    lower = max(lower, 0.0) if positive else lower
    if search is None:
        low = lower if lower > 0 or not positive and lower > -math.inf else 0.02 if positive else -2.0
        search = (low, upper if upper < math.inf else max(2.0, 100 * low))
    about = Constant(positive, lower, upper, default, search)
    metadata = {"constant": about}
    return dataclasses.field(metadata=metadata) if default is None else dataclasses.field(
        default=default, metadata=metadata)


def _to_float(x):
    """Integers become floats: one above 2^31 overflows in 32-bit JAX."""
    if isinstance(x, bool) or isinstance(x, (str, bytes)):
        raise TypeError(f"a law's constants and inputs are numbers or arrays of numbers, not {x!r}.")
    if isinstance(x, int):
        return float(x)
    if isinstance(x, (list, tuple)):
        x = np.asarray(x)
    if isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind in "iuO":  # O: integers above 2^64
        return x.astype(np.float64)
    return x


def formula(method):
    """A method of a law as a jit-compiled function that takes numbers, lists and arrays alike."""
    compiled = jax.jit(method)

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        return compiled(jax.tree.map(_to_float, self), *map(_to_float, args),
                        **{k: _to_float(v) for k, v in kwargs.items()})

    return call


def law(*, inputs, output="loss", ratios=(), signed=()):
    """Make a class a law: `inputs` are the columns that `__call__` reads, in order; `output` the column it predicts.

    `ratios` are those inputs that are parts of one whole: they may be 0, and sum to 1; `signed` those that may be any
    number. The others are positive.

    Raises:
      TypeError: a field was not made with `constant(...)`, or the inputs are not the arguments of `__call__`.

    Example:
      >>> @law(inputs=("B",), output="S")
      ... class StepsToLoss:
      ...     '''S = S_min + E_min / B at a fixed loss.'''
      ...     S_min: float = constant(positive=True)
      ...     E_min: float = constant(positive=True)
      ...     def __call__(self, B):
      ...         return self.S_min + self.E_min / B
      >>> print(StepsToLoss(S_min=1e3, E_min=1e8)(1e5))
      2000.0
    """
    if isinstance(inputs, str):
        inputs = (inputs,)

    def decorate(cls):
        cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
        for field in dataclasses.fields(cls):
            if "constant" not in field.metadata:
                raise TypeError(f"{cls.__name__}.{field.name} must be declared with jaxscale.constant(...), as in "
                                f"'{field.name}: float = jaxscale.constant(positive=True)'.")
        names = cls.__call__.__code__.co_varnames[1:cls.__call__.__code__.co_argcount]
        if names != tuple(inputs):
            raise TypeError(f"{cls.__name__}.__call__ must take the inputs {tuple(inputs)} in that order, "
                            f"not {names}: rename the arguments or the inputs.")
        cls.constants = {f.name: f.metadata["constant"] for f in dataclasses.fields(cls)}
        cls.inputs, cls.output, cls.ratios, cls.signed = tuple(inputs), output, tuple(ratios), tuple(signed)
        cls.__call__ = formula(cls.__call__)
        return jax.tree_util.register_dataclass(cls, data_fields=list(cls.constants), meta_fields=[])

    return decorate


def to_unconstrained(law):
    """A law's constants as one vector [..., p]: logs of the positive ones, the others as they are."""
    return jnp.stack([jnp.log(jnp.asarray(getattr(law, name))) if about.positive else jnp.asarray(getattr(law, name))
                      for name, about in law.constants.items()], axis=-1)


def from_unconstrained(Law, vector):
    """The law whose `to_unconstrained` is `vector` [..., p]."""
    exp = np.exp if isinstance(vector, np.ndarray) else jnp.exp  # NumPy in, NumPy out
    return Law(*(exp(vector[..., i]) if about.positive else vector[..., i]
                 for i, about in enumerate(Law.constants.values())))


def as_floats(law):
    """The same law with Python floats in its fields (NumPy float64 arrays where they carry axes), never jax arrays.

    A float64 jax array used where x64 is off silently becomes float32; a Python float follows the caller's setting.
    """
    values = {name: np.asarray(getattr(law, name), np.float64) for name in law.constants}
    return type(law)(**{name: float(v) if v.ndim == 0 else v for name, v in values.items()})


def separated(Law):
    """How to write `L = law(inputs)` as `left = right`, `right` a sum of terms each scaled by one constant.

    Most laws are such a sum already. One that is not, an implicit law or a power of a sum, says how with a method
    `separated(self, L, *inputs) -> (left, right)`, equal at the loss; a fit uses it to find its starts.
    """
    return getattr(Law, "separated", lambda self, L, *inputs: (L, self(*inputs)))
