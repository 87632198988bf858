"""The laws: callable records of constants, in the letters of their papers.

`law(N, D)` is pure JAX: `jit`, `vmap` and `grad` go through it, with respect to the inputs and to the law itself.
`published` holds laws with constants from the literature, `provenance` where each comes from and where it holds,
`catalogue` the classes by the names the command line uses. A law of your own is a class with `@jaxscale.law`.
"""

from jaxscale.laws.annealing import Annealing, areas
from jaxscale.laws.base import constant, law
from jaxscale.laws.chinchilla import Chinchilla
from jaxscale.laws.context import ContextLength
from jaxscale.laws.data_constrained import DataConstrained
from jaxscale.laws.given import given
from jaxscale.laws.kaplan import CriticalBatchSize, KaplanD, KaplanN, KaplanND, KaplanNS
from jaxscale.laws.kaplan_nsb import KaplanNSB
from jaxscale.laws.mixing import mixing, scaled_mixing
from jaxscale.laws.moe import MoE, MoEExperts
from jaxscale.laws.multi_power_law import luo2025, multi_power
from jaxscale.laws.power import BrokenPowerLaw, PowerLaw, ShiftedPowerLaw
from jaxscale.laws.published import Provenance, provenance, published
from jaxscale.laws.rates import learning_rates, logged_rates
from jaxscale.laws.sigmoid import SigmoidPowerLaw

catalogue = {
    "chinchilla": Chinchilla,
    "data-constrained": DataConstrained,
    "kaplan-n": KaplanN,
    "kaplan-d": KaplanD,
    "kaplan-nd": KaplanND,
    "kaplan-ns": KaplanNS,
    "kaplan-nsb": KaplanNSB,
    "critical-batch-size": CriticalBatchSize,
    "power-law": PowerLaw,
    "shifted-power-law": ShiftedPowerLaw,
    "sigmoid-power-law": SigmoidPowerLaw,
    "broken-power-law": BrokenPowerLaw,
    "context": ContextLength,
    "moe": MoE,
    "moe-experts": MoEExperts,
    "annealing": Annealing,
}

__all__ = ["Annealing", "BrokenPowerLaw", "Chinchilla", "ContextLength", "CriticalBatchSize", "DataConstrained",
           "KaplanD", "KaplanN", "KaplanND", "KaplanNS", "KaplanNSB", "MoE", "MoEExperts", "PowerLaw", "Provenance",
           "ShiftedPowerLaw", "SigmoidPowerLaw", "areas", "catalogue", "constant", "given", "law", "learning_rates",
           "logged_rates", "luo2025", "mixing", "multi_power", "provenance", "published", "scaled_mixing"]
