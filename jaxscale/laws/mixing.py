"""Laws of the mix of training data: a class for each set of domains, its inputs the ratio of each."""

import functools
import keyword

import jax.numpy as jnp

from jaxscale.errors import InputError
from jaxscale.laws.base import constant, law


def mixing(domains):
    """The law class of one loss by the mix of `domains`: L = c + k exp(sum_j t_j r_j), at one size and data count.

    Ye et al. 2024, Data Mixing Laws (arXiv 2403.16952): c_i + k_i exp(sum_j t_ij r_j), r_j the ratio of domain j and i
    the evaluation set, each of which has a law of its own. The inputs are r_<domain>. As the ratios sum to one, a shift
    of all t goes into k, and t of the first domain is set to 0: t_j says what domain j does to this loss in place of
    the first one, a negative t that it lowers it. k > 0, so the loss is convex in the ratios. Untested on real runs, as
    no table with several mixes is at hand.

    Raises:
      InputError: for fewer than two domains, or names that are no Python names.

    Example:
      >>> Mix = mixing(("web", "code"))
      >>> law = Mix(c=2.0, k=1.0, t_code=-1.0)
      >>> Mix.inputs, round(float(law(0.7, 0.3)), 3)
      (('r_web', 'r_code'), 2.741)
    """
    return _mixing(_checked(domains))


def scaled_mixing(domains):
    """The law class by size, tokens and mix: L = E + A / N^alpha + B / D^beta + 1 / sum_j C_j r_j^gamma_j.

    Shukor et al. 2025, Scaling Laws for Optimal Data Mixtures (arXiv 2507.09404), the additive law, Eq 2.4: fitted to
    runs of several sizes at once, and its best mix is the same for all of them. (Their joint law, Eq 2.5, in which A
    and B depend on the mix, is not here: it takes 13 constants and more.) gamma is kept to at most 1, where the loss is
    convex in the ratios. The inputs are N, D and r_<domain>. Untested on real runs, as no table with several mixes is
    at hand.

    Raises:
      InputError: for fewer than two domains, or names that are no Python names.

    Example:
      >>> Mix = scaled_mixing(("web", "code"))
      >>> law = Mix(E=1.5, A=400, B=410, alpha=0.34, beta=0.28, C_web=3, C_code=1, gamma_web=0.5, gamma_code=0.3)
      >>> round(float(law(1e9, 2e10, 0.7, 0.3)), 3)
      2.695
    """
    return _scaled_mixing(_checked(domains))


@functools.cache  # one class for one set of domains: what is compiled for it is found again
def _mixing(domains):
    def loss(self, *ratios):
        slopes = (getattr(self, f"t_{domain}") for domain in domains[1:])
        return self.c + self.k * jnp.exp(sum(t * r for t, r in zip(slopes, ratios[1:], strict=True)))

    about = {"c": constant(positive=True), "k": constant(positive=True)}
    about |= {f"t_{domain}": constant(search=(-5.0, 5.0)) for domain in domains[1:]}
    parts = " + ".join(f"t_{domain} r_{domain}" for domain in domains[1:])
    return _class("Mixing", f"L = c + k exp({parts}), against {domains[0]}: Ye et al. 2024.", domains, (), about, loss)


@functools.cache
def _scaled_mixing(domains):
    def loss(self, N, D, *ratios):
        parts = (getattr(self, f"C_{domain}") * r ** getattr(self, f"gamma_{domain}")
                 for domain, r in zip(domains, ratios, strict=True))
        return self.E + self.A / N**self.alpha + self.B / D**self.beta + 1 / sum(parts)

    about = {name: constant(positive=True) for name in ("E", "A", "B", "alpha", "beta")}
    about |= {f"C_{domain}": constant(positive=True, search=(0.5, 20.0)) for domain in domains}
    about |= {f"gamma_{domain}": constant(positive=True, upper=1.0, search=(0.05, 1.0)) for domain in domains}
    parts = " + ".join(f"C_{domain} r_{domain}^gamma_{domain}" for domain in domains)
    return _class("ScaledMixing", f"L = E + A / N^alpha + B / D^beta + 1 / ({parts}): Shukor et al. 2025.", domains,
                  ("N", "D"), about, loss)


def _checked(domains):
    domains = tuple(domains) if not isinstance(domains, str) else (domains,)
    able = all(isinstance(name, str) and f"r_{name}".isidentifier() and not keyword.iskeyword(name) for name in domains)
    if len(domains) < 2 or len(set(domains)) < len(domains) or not able:
        raise InputError(f"a mixing law wants two or more domains, different names of letters, digits and _, not "
                         f"{domains!r}: name them as the columns of their ratios are, less r_.")
    return domains


def _class(name, text, domains, inputs, about, loss):
    """The law class of these constants, whose `__call__` takes the inputs by name."""
    ratios = tuple(f"r_{domain}" for domain in domains)
    names = ", ".join((*inputs, *ratios))
    # As dataclasses write their __init__: the names are checked, and a law's inputs are its arguments.
    call = eval(f"lambda self, {names}: loss(self, {names})", {"loss": loss})
    body = {"__doc__": text, "__annotations__": dict.fromkeys(about, float), "__call__": call, "__module__": __name__}
    return law(inputs=(*inputs, *ratios), ratios=ratios)(type(name, (), body | about))
