"""Another law, some of whose constants are read from the table: many fits of one call can each hold others."""

import functools

from jaxscale.errors import InputError, nearest
from jaxscale.laws.base import constant, law, separated


def given(Law, names):
    """The law class that reads the constants `names` of `Law` from the table: alpha from a column alpha_given.

    In one fit, `fix=` does the same. In `fit_groups` each group may hold values of its own: a profile of the objective
    over a grid, or exponents borrowed from elsewhere, are then one call. The inputs are those columns, then the law's.

    Raises:
      InputError: for a name that is no constant of the law, one named twice, and where none is left to be fitted.

    Example:
      >>> from jaxscale.laws import Chinchilla
      >>> Law = given(Chinchilla, ("alpha", "beta"))
      >>> Law.inputs, tuple(Law.constants)
      (('alpha_given', 'beta_given', 'N', 'D'), ('E', 'A', 'B'))
      >>> print(round(float(Law(E=1.69, A=406.4, B=410.7)(0.34, 0.28, 70e9, 1.4e12)), 4))
      1.9366
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in Law.constants:
            raise InputError(f"given wants constants of {Law.__name__}, {', '.join(Law.constants)}, not {name!r}"
                             f"{nearest(name, Law.constants) or '.'}")
    if not names or len({*names}) < len(names) or len(names) == len(Law.constants):
        raise InputError(f"given wants some, but not all, of the constants of {Law.__name__}, each once, not {names}.")
    return _given(Law, names)


@functools.cache  # one class for one question: what is compiled for it is found again
def _given(Law, names):
    columns, own = tuple(f"{name}_given" for name in names), [name for name in Law.constants if name not in names]

    def whole(self, values):
        return Law(**{name: getattr(self, name) for name in own}, **dict(zip(names, values, strict=False)))

    def loss(self, *inputs):
        return whole(self, inputs)(*inputs[len(names):])

    arguments = ", ".join((*columns, *Law.inputs))
    # As dataclasses write their __init__: the names are checked, and a law's inputs are its arguments.
    body = {"__call__": eval(f"lambda self, {arguments}: loss(self, {arguments})", {"loss": loss}),
            "__doc__": f"{Law.__name__} with {', '.join(names)} read from the table.", "__module__": __name__,
            "__annotations__": dict.fromkeys(own, float)}
    body |= {name: constant(about.default, positive=about.positive, lower=about.lower, upper=about.upper,
                            search=about.search) for name, about in Law.constants.items() if name in own}
    if hasattr(Law, "separated"):
        body["separated"] = lambda self, L, *inputs: separated(Law)(whole(self, inputs), L, *inputs[len(names):])
    signed = [column for column, name in zip(columns, names, strict=True) if not Law.constants[name].positive]
    decorate = law(inputs=(*columns, *Law.inputs), output=Law.output, ratios=Law.ratios, signed=(*signed, *Law.signed))
    return decorate(type(f"{Law.__name__}Given", (), body))
