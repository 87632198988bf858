"""Laws with constants from the literature, and where each comes from and holds."""

import dataclasses

from jaxscale.laws.chinchilla import Chinchilla
from jaxscale.laws.data_constrained import DataConstrained
from jaxscale.laws.kaplan import KaplanD, KaplanN, KaplanND
from jaxscale.laws.kaplan_nsb import KaplanNSB
from jaxscale.laws.moe import MoEExperts

NON_EMBEDDING = "without vocabulary and positional embeddings"
ALL = "all parameters, embeddings included"
MET = "the parameters that one token meets, with one expert a layer"


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a published law comes from: its source, what N counts, and the inputs it was fitted on.

    `ranges` are the smallest and largest input of the source's runs, in units of the law (parameters, tokens, steps);
    units of the loss are nats per token throughout. `note` says what a user should know before relying on it.
    """

    source: str
    counts: str
    ranges: dict
    note: str = ""


_ENTRIES = {
    "su2024-c4": (
        KaplanNSB(N_c=1.5e14, alpha_N=0.076, S_c=2.6e3, alpha_S=0.67, B_star=1.7e8, alpha_B=0.205),
        Provenance("Su et al. 2024, Unraveling the Mystery of Scaling Laws: Part I, Table 1 (C4)", NON_EMBEDDING,
                   {"N": (1e6, 3.3e10)}, "Fitted on models of 1M to 60M, tested by its authors up to 33B.")),
    "kaplan2020-webtext2": (
        KaplanNSB(N_c=6.5e13, alpha_N=0.076, S_c=2.1e3, alpha_S=0.76, B_star=2.1e8, alpha_B=0.21),
        Provenance("Kaplan et al. 2020 (WebText2), as tabled by Su et al. 2024, Table 1", NON_EMBEDDING,
                   {"N": (7.68e2, 1.5e9)})),
    "kaplan2020-joint": (
        KaplanND(N_c=6.4e13, alpha_N=0.076, D_c=1.8e13, alpha_D=0.103),
        Provenance("Kaplan et al. 2020, Eq 1.5 and Table 2", NON_EMBEDDING,
                   {"N": (7.68e2, 1.5e9), "D": (2.2e7, 2.3e10)})),
    "kaplan2020-n": (
        KaplanN(N_c=8.8e13, alpha_N=0.076),
        Provenance("Kaplan et al. 2020, Eq 1.1", NON_EMBEDDING, {"N": (7.68e2, 1.5e9)})),
    "kaplan2020-d": (
        KaplanD(D_c=5.4e13, alpha_D=0.095),
        Provenance("Kaplan et al. 2020, Eq 1.2", NON_EMBEDDING, {"D": (2.2e7, 2.3e10)})),
    "hoffmann2022": (
        Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
        Provenance("Hoffmann et al. 2022, Eq 10", ALL, {"N": (4.4e7, 1.6e10), "D": (5e9, 5e11)},
                   "Stopped short of its own optimum (Besiroglu et al. 2024): see besiroglu2024.")),
    "besiroglu2024": (
        Chinchilla(E=1.8169, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),
        Provenance("Besiroglu et al. 2024, refit of Hoffmann's points", ALL, {"N": (4.4e7, 1.6e10), "D": (2e8, 9e11)},
                   "The least absolute deviations fit; the paper prints E = 1.8172, which belongs to another fit.")),
    "muennighoff2023-base": (
        Chinchilla(E=1.869, A=520.8, B=1487.7, alpha=0.3527, beta=0.3527),
        Provenance("Muennighoff et al. 2023, Scaling Data-Constrained Language Models", ALL,
                   {"N": (7e6, 9e9), "D": (1e8, 9e11)}, "Unique tokens; its law of repeated data reduces to this.")),
    "muennighoff2023": (
        DataConstrained(E=1.869, A=520.8, B=1487.7, alpha=0.3527, beta=0.3527, R_D=15.39, R_N=5.31),
        Provenance("Muennighoff et al. 2023, Scaling Data-Constrained Language Models", ALL,
                   {"N": (7e6, 9e9), "D": (1e8, 9e11)}, "Beyond some 4 epochs each repeat adds less and less.")),
    **{f"clark2022-{router}": (
        law, Provenance(f"Clark et al. 2022, Unified Scaling Laws for Routed Language Models, Table 3 ({name})", MET,
                        {"N": (1.5e7, 1.3e9), "experts": (1.0, 512.0)}, "At 130B tokens; logs to base 10. The printed "
                        "digits of c leave the N from which on experts do not help open by a factor of 3 and more."))
       for router, name, law in (
           ("s-base", "S-BASE", MoEExperts(a=-0.082, b=-0.108, c=0.009, d=1.104, E_start=1.847, E_max=314.478)),
           ("rl-r", "RL-R", MoEExperts(a=-0.083, b=-0.126, c=0.012, d=1.111, E_start=1.88, E_max=469.982)),
           ("hash", "HASH", MoEExperts(a=-0.087, b=-0.136, c=0.012, d=1.157, E_start=4.175, E_max=477.741)))},
}

published = {name: law for name, (law, _) in _ENTRIES.items()}
provenance = {name: about for name, (_, about) in _ENTRIES.items()}
