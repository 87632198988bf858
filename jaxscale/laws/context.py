"""The context length as an input: the loss falls as a power of the position, and so does its mean over a context."""

from jaxscale.laws.base import constant, formula, law


@law(inputs=("N", "D", "n_ctx"))
class ContextLength:
    """Loss averaged over contexts of n_ctx tokens: L = E + A / N^alpha + B / D^beta + K / n_ctx^gamma.

    Kaplan et al. 2020 (appendix D.5) see the loss at position T fall towards a floor as a power of T, and Xiong et al.
    2023 the loss of Llama 2 models fall as (alpha / c)^beta + gamma with their context c. The mean of a T^-gamma over
    T = 1 .. n_ctx is a / (1 - gamma) n_ctx^-gamma for gamma < 1, up to a term in 1 / n_ctx: a power with the same
    exponent. That it adds to Hoffmann's law of N and D, with K the same for all N, is an assumption of ours: Kaplan's
    floors and amplitudes differ by size. Untested on real runs, as no table at hand has several context lengths.

    N, D as in `Chinchilla`; n_ctx is tokens; E and L are nats per token. The loss against positions alone, or against
    contexts of one model, is a `PowerLaw` with x="position" or x="n_ctx".

    Example:
      >>> law = ContextLength(E=1.5, A=406.4, B=410.7, alpha=0.34, beta=0.28, K=4.0, gamma=0.5)
      >>> print(round(float(law(1e9, 2e10, 1024)), 3), round(float(law(1e9, 2e10, 4096)), 3))
      2.515 2.453
    """

    E: float = constant(positive=True)
    A: float = constant(positive=True)
    B: float = constant(positive=True)
    alpha: float = constant(positive=True)
    beta: float = constant(positive=True)
    K: float = constant(positive=True)
    gamma: float = constant(positive=True)

    def __call__(self, N, D, n_ctx):
        return self.E + self.A / N**self.alpha + self.B / D**self.beta + self.K / n_ctx**self.gamma

    @formula
    def at_position(self, N, D, T):
        """Loss at position T of a context, d(n L(n)) / dn at n = T, in nats: the power term times 1 - gamma.

        Of which `law(N, D, n_ctx)` is the mean over a context; it holds where a longer context changes no earlier loss.
        """
        return self.E + self.A / N**self.alpha + self.B / D**self.beta + (1 - self.gamma) * self.K / T**self.gamma
