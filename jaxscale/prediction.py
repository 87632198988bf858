"""A law at given inputs, in float64, with a warning where they lie outside the range it was fitted on."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.errors import InputError, nearest
from jaxscale.runs import IDENTITIES, Runs

QUANTITIES = dict.fromkeys(name for whole, _, parts in IDENTITIES for name in (whole, *parts))


def predict(fit, inputs, law=None):
    """The output of a fit's law (or of `law`, one law or a batch of them) at `inputs`, a dict of numbers and arrays.

    Returns:
      NumPy float64 in the common shape of the inputs, after the leading axis of a batch of laws.

    Raises:
      InputError: an input is missing, unknown, or not positive.
    """
    names = fit.facts["inputs"]
    columns, shape = law_inputs(fit.law, {names.get(name, name): value for name, value in inputs.items()}, names)
    if law is None:
        for sentence in outside(fit.facts["ranges"], columns):
            warnings.warn(sentence + ": this is an extrapolation.", stacklevel=3)
    return _shaped(fit.law if law is None else law, columns, shape)


def predict_each(law, inputs):
    """The output [laws, ...] of a batch of laws at `inputs`, a dict of numbers and arrays, as `predict`."""
    return _shaped(law, *law_inputs(law, inputs))


def _shaped(law, columns, shape):
    return evaluate(law, columns).reshape((*np.shape(next(iter(vars(law).values()))), *shape))[()]


def law_inputs(law, values, names=None):
    """The columns [n] that a law reads, in order, from any inputs that give them, and their common shape."""
    names = names or {name: name for name in law.inputs}
    known = dict.fromkeys((*names.values(), *QUANTITIES))
    if not values:
        raise InputError(f"{type(law).__name__} needs {' and '.join(names.values())}: pass them by name.")
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{type(law).__name__} is a law of {', '.join(names.values())}, which follow from any of "
                             f"{', '.join(known)}, but not from {name!r}{nearest(name, known) or ': leave it out.'}")
        numbers = np.asarray(value)
        ratio, signed = name in law.ratios, name in law.signed
        usable = np.zeros(numbers.shape, bool) if numbers.dtype.kind not in "iuf" else (
            (numbers >= 0) & (numbers <= 1) if ratio else np.isfinite(numbers) & (signed | (numbers > 0)))
        if not np.all(usable):
            wanted = "from 0 to 1" if ratio else "finite numbers" if signed else "positive numbers"
            raise InputError(f"{name} must be {wanted}, not {numbers[~usable].tolist()[0]!r}: correct it.")
    try:
        arrays = dict(zip(values, np.broadcast_arrays(*values.values()), strict=True))
    except ValueError:
        shapes = ", ".join(f"{name} {np.shape(value)}" for name, value in values.items())
        raise InputError(f"the inputs must be numbers or arrays of shapes that broadcast, not {shapes}.") from None
    shape = next(iter(arrays.values())).shape
    runs = Runs.from_columns({name: array.ravel() for name, array in arrays.items()}, source="the input")
    wanted = tuple(names.values())
    missing = [name for name in wanted if not runs.has(name)]
    if missing:
        option = missing[0].replace("_", "-")
        raise InputError(f"{type(law).__name__} is a law of {', '.join(wanted)}, and {missing[0]} is not given and "
                         f"does not follow from {', '.join(values)}: pass {missing[0]}= (--{option}) too.")
    selected = runs.select(wanted, wanted[0], ratios=law.ratios, signed=law.signed)
    for name in values.keys() - set(wanted):
        known = Runs.from_columns(selected.columns)
        if known.has(name):
            follows = known.select((name,), name).columns[name]
            off = np.abs(follows / runs.columns[name] - 1) > 1e-3
            if np.any(off):
                raise InputError(f"{name} = {runs.columns[name][off][0]:g} contradicts {', '.join(wanted)}, from which "
                                 f"{name} = {follows[off][0]:g} follows: leave one out.")
    return {name: selected.columns[column] for name, column in names.items()}, shape


def evaluate(law, columns):
    """The output [n], or [laws, n] of a batch of laws, at columns [n] by input, in float64."""
    batched = np.ndim(next(iter(vars(law).values()))) > 0
    with jax.enable_x64(True):
        return np.asarray((_call_each if batched else _call)(law, tuple(columns.values())), np.float64)


def _output(law, inputs):
    return jnp.broadcast_to(law(*inputs), inputs[0].shape)


_call = jax.jit(_output)
_call_each = jax.jit(jax.vmap(_output, in_axes=(0, None)))


def outside(ranges, columns):
    """A sentence for each input that lies outside its range [smallest, largest], with how far."""
    sentences = []
    for name, (low, high) in ranges.items():
        values = columns.get(name)
        if values is None:
            continue
        least, most = float(np.min(values)), float(np.max(values))
        if most > high * (1 + 1e-9):
            times = f"{most / high:.3g} times " if high > 0 else ""  # a ratio may be 0
            sentences.append(f"{name} = {most:.4g} is {times}beyond the largest fitted, {high:.4g}")
        if least < low * (1 - 1e-9):
            times = f"{low / least:.3g} times " if least > 0 else ""
            sentences.append(f"{name} = {least:.4g} is {times}below the smallest fitted, {low:.4g}")
    return sentences
