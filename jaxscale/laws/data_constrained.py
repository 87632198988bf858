"""The law of repeated data of Muennighoff et al. 2023."""

import jax.numpy as jnp

from jaxscale.laws.base import constant, formula, law


@law(inputs=("N", "D", "unique_tokens"))
class DataConstrained:
    """Loss of N parameters on D tokens, U of them unique: L = E + A / N'^alpha + B / D'^beta.

    Muennighoff et al. 2023, section 3. A token seen again counts for less, and so does a parameter more than U tokens
    can use: D' = U + U R_D (1 - exp(-(D/U - 1) / R_D)) above U, D' = D up to it, and N' likewise with R_N around
    U_N = min(N, N_opt(U)). N_opt(U) is the size whose Chinchilla optimum takes U tokens, G (G U)^(beta / alpha) with
    G = (alpha A / (beta B))^(1 / (alpha + beta)). Without repeats and up to N_opt(U) it is Chinchilla's law of the same
    constants. R_D and R_N are the paper's R_D* and R_N*, a number of repeats; N counts all parameters in the paper's
    fits, D and U are tokens, E and L nats per token, and B is an amplitude, not a batch size. The paper fits E, A, B,
    alpha and beta to runs without repeats first: hold them with `fix=`.

    Tested on simulated tables only: no table of runs with repeats was at hand.

    Example:
      >>> law = DataConstrained(E=1.869, A=520.8, B=1487.7, alpha=0.3527, beta=0.3527, R_D=15.39, R_N=5.31)
      >>> four, forty = law(1e9, 4e10, 1e10), law(1e9, 4e11, 1e10)  # epochs
      >>> print(round(float(four), 3), round(float(forty), 3), round(float(law(1e9, 4e11, 4e11)), 3))
      2.501 2.392 2.338
    """

    E: float = constant(positive=True)
    A: float = constant(positive=True, search=(1.0, 1e5))
    B: float = constant(positive=True, search=(1.0, 1e5))
    alpha: float = constant(positive=True)
    beta: float = constant(positive=True)
    R_D: float = constant(positive=True, search=(1.0, 100.0))
    R_N: float = constant(positive=True, search=(1.0, 100.0))

    def __call__(self, N, D, unique_tokens):
        N = _effective(N, jnp.minimum(N, self.optimal_parameters(unique_tokens)), self.R_N)
        D = _effective(D, jnp.minimum(D, unique_tokens), self.R_D)
        return self.E + self.A / N**self.alpha + self.B / D**self.beta

    @formula
    def optimal_parameters(self, tokens):
        """N_opt, the parameters whose compute-optimal run (of C = 6 N D, without repeats) sees this many tokens."""
        alpha, beta = self.alpha, self.beta
        log_G = jnp.log(alpha * self.A / (beta * self.B)) / (alpha + beta)
        return jnp.exp(log_G + beta / alpha * (log_G + jnp.log(tokens)))


def _effective(used, unique, R):
    """unique + unique R (1 - exp(-repeats / R)), with used / unique - 1 repeats."""
    return unique * (1 - R * jnp.expm1((1 - used / unique) / R))
