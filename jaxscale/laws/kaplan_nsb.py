"""Loss along a run at any batch size: the implicit law that Su et al. 2024 predict whole trajectories with."""

import jax
import jax.numpy as jnp

from jaxscale.laws.base import constant, formula, law
from jaxscale.roots import root

BLOCK = 16384  # points solved at once on a CPU: what they need stays in a core's cache


@law(inputs=("N", "S", "B"))
class KaplanNSB:
    """L = E + (N_c/N)^alpha_N + (S_c/S)^alpha_S (1 + B_star / (B L^(1/alpha_B)))^alpha_S, Su et al. 2024 Eq 3.13.

    The loss L after S steps of B tokens, of a model of N parameters: the root of that equation, which is
    Kaplan et al. 2020 Eqs 5.5 and 1.6 combined, with an optional floor E (0, and held there, unless freed). N counts
    non-embedding parameters, S is optimiser steps, B and B_star are tokens, L is nats per token. The right side falls
    as L rises, so the root is unique; it is found to the last digits of the dtype.

    Example:
      >>> law = KaplanNSB(N_c=1.5e14, alpha_N=0.076, S_c=2.6e3, alpha_S=0.67, B_star=1.7e8, alpha_B=0.205)
      >>> print(round(float(law(60e6, 1e5, 2e6)), 3))
      3.167
    """

    N_c: float = constant(positive=True)
    alpha_N: float = constant(positive=True)
    S_c: float = constant(positive=True)
    alpha_S: float = constant(positive=True)
    B_star: float = constant(positive=True, search=(1e3, 1e12))
    alpha_B: float = constant(positive=True, search=(0.05, 1.0))
    E: float = constant(0.0, lower=0.0)

    def __call__(self, N, S, B):
        dtype = jnp.result_type(*jax.tree.leaves((self, N, S, B)), float)
        law = jax.tree.map(lambda constant: jnp.asarray(constant, dtype), self)
        return _loss(law, *jnp.broadcast_arrays(*(jnp.asarray(x, dtype) for x in (N, S, B))))

    def separated(self, L, N, S, B):
        slower = (1 + self.B_star / (B * L ** (1 / self.alpha_B))) ** self.alpha_S
        return L, self.E + (self.N_c / N) ** self.alpha_N + (self.S_c / S) ** self.alpha_S * slower

    def _terms(self, N, S, B):
        """The minimum loss, alpha_S log(S_c / S) and log(B_star / B)."""
        k, q = self.alpha_S * (jnp.log(self.S_c) - jnp.log(S)), jnp.log(self.B_star) - jnp.log(B)
        return self.minimum_loss(N), k, q

    @formula
    def by_bisection(self, N, S, B):
        """The same loss by pure bisection: slower, and what the accelerated solve is tested against."""
        floor, k, q = jnp.broadcast_arrays(*self._terms(N, S, B))
        args = jnp.log(floor), k, q, self.alpha_S, self.alpha_B
        lower, upper = jax.lax.stop_gradient(_bracket(*args))
        return jnp.exp(root(_log_excess, lower, upper, lower, args, True))

    @formula
    def minimum_loss(self, N):
        """The loss of N parameters after endless steps, L_inf = E + (N_c / N)^alpha_N, in nats."""
        return self.E + jnp.exp(self.alpha_N * (jnp.log(self.N_c) - jnp.log(N)))

    @formula
    def critical_batch_size(self, loss):
        """B_crit(L) = B_star / L^(1 / alpha_B) = E_min / S_min, Eq 3.12, in tokens: the mean noise scale so far."""
        return self.B_star * jnp.exp(-jnp.log(loss) / self.alpha_B)

    @formula
    def noise_scale(self, N, loss):
        """The noise scale now, dE_min / dS_min at fixed N, in tokens: what a gradient measurement sees.

        B_noise = B_crit(L) (1 + (alpha_S / alpha_B) (L - L_inf) / L), from E_min = S_min B_crit. It is above B_crit,
        which averages over the run so far; Su et al. Eq 3.9 equates them, exact only for a constant B_crit.
        """
        excess = jnp.maximum(1 - self.minimum_loss(N) / loss, 0.0)
        return self.critical_batch_size(loss) * (1 + self.alpha_S / self.alpha_B * excess)

    @formula
    def minimum_steps(self, N, loss):
        """Fewest steps to a loss, at a batch far above critical: S_min = S_c (loss - L_inf)^(-1 / alpha_S), Eq 3.2.

        inf where the loss is out of reach of N parameters.
        """
        excess = loss - self.minimum_loss(N)
        reachable = excess > 0
        return jnp.where(reachable, self.S_c * jnp.where(reachable, excess, 1.0) ** (-1 / self.alpha_S), jnp.inf)

    @formula
    def minimum_tokens(self, N, loss):
        """Fewest tokens to a loss, at a batch far below critical: E_min = S_min B_crit(loss). inf out of reach."""
        return self.minimum_steps(N, loss) * self.critical_batch_size(loss)

    @formula
    def steps_to_loss(self, N, B, loss):
        """Steps to a loss at batch size B: S = S_min + E_min / B, Eq 3.10. inf out of reach."""
        return self.minimum_steps(N, loss) * (1 + self.critical_batch_size(loss) / B)

    @formula
    def trajectory(self, N, B, S):
        """Losses at the rising steps S [k] of a run whose batch size is B: a number, or [k], one for each interval
        that ends at S.

        Eq 3.10 relates totals at a constant batch. Where the batch changes, dS = dS_min + dE_min / B holds locally, so
        each piece ends at the L with S_min(L) + E_min(L) / B = S_min(L0) + E_min(L0) / B + dS: as if all steps so far
        had been taken at the piece's own batch size.
        """
        if jnp.ndim(B) == 0:
            return self(N, S, B)
        S = jnp.asarray(S)
        length = jnp.diff(S, prepend=jnp.zeros_like(S[:1]))

        def piece(state, interval):
            minimum_steps, critical = state
            steps, B = interval
            equivalent = minimum_steps * (1 + critical / B) + steps
            loss = self(N, equivalent, B)
            critical = self.critical_batch_size(loss)
            return (equivalent / (1 + critical / B), critical), loss  # S_min without a difference of losses

        zero = jnp.zeros((), jnp.result_type(S, B, self(N, S[0], B[0])))
        return jax.lax.scan(piece, (zero, zero), (length.astype(zero.dtype), jnp.asarray(B, zero.dtype)))[1]


def _log_excess(v, args):
    """log(right side of Eq 3.13) - log L at v = log L: convex and falling, with slope at most -1."""
    n, k, q, alpha_S, alpha_B = args
    return jnp.logaddexp(n, k + alpha_S * jax.nn.softplus(q - v / alpha_B)) - v


def _bracket(n, k, q, alpha_S, alpha_B):
    """Bounds of log L.

    Each of the right side's three asymptotes lies below the root, and the largest within log(1 + 2^alpha_S) of it,
    because softplus(z) <= log 2 + max(z, 0).
    """
    lower = jnp.maximum(jnp.maximum(n, k), (k + alpha_S * q) / (1 + alpha_S / alpha_B))
    return lower, lower + jnp.log1p(2.0**alpha_S)


def _halley(v, floor, k, q, alpha_S, alpha_B, log_ratio):
    """Halley's step from v towards the zero of `_log_excess`, and the excess; `log_ratio(r, v)` is log(r) - v."""
    steep, slope = 1 / alpha_B, alpha_S / alpha_B
    e = jnp.exp(q - v * steep)
    t = jnp.exp(k + alpha_S * jnp.log(1 + e))
    r = floor + t
    h = log_ratio(r, v)
    inverse = 1 / (r * (1 + e))
    fall = slope * t * e * inverse  # -h' = 1 + fall
    bend = fall * (steep * r + slope * e * floor) * inverse  # h''
    return 2 * h * (1 + fall) / (2 * (1 + fall) ** 2 - h * bend), h


@jax.custom_jvp
def _loss(law, N, S, B):
    """The root, on a CPU block after block."""
    def solve(*inputs):
        return _solve(*law._terms(*inputs), law.alpha_S, law.alpha_B)

    def in_blocks(*inputs):
        def one(i, loss):
            at = jnp.minimum(i * BLOCK, N.size - BLOCK)  # the last one overlaps
            block = (jax.lax.dynamic_slice(x.ravel(), (at,), (BLOCK,)) for x in inputs)
            return jax.lax.dynamic_update_slice(loss, solve(*block), (at,))

        return jax.lax.fori_loop(0, -(-N.size // BLOCK), one, jnp.zeros(N.size, N.dtype)).reshape(N.shape)

    if N.size <= BLOCK:
        return solve(N, S, B)
    return jax.lax.platform_dependent(N, S, B, cpu=in_blocks, default=solve)


def _solve(floor, k, q, alpha_S, alpha_B):
    """The L with L = floor + e^k (1 + e^q L^(-1/alpha_B))^alpha_S.

    Three of Halley's steps in float32 inside the bracket, and one in float64 where that is asked for, are enough for
    all but odd constants. A bound of the next step says where: the loop runs only if some element is left.
    """
    args, dtype = (floor, k, q, alpha_S, alpha_B), floor.dtype
    short = tuple(jnp.asarray(x, jnp.float32) for x in args)
    low, high = _bracket(jnp.log(short[0]), *short[1:])
    v = low
    for _ in range(3):
        step, h = _halley(v, *short, lambda r, v: jnp.log(r) - v)
        low, high = jnp.where(h > 0, v, low), jnp.where(h > 0, high, v)
        inside = (v + step >= low) & (v + step <= high)  # not where it is NaN
        step = jnp.where(inside, v + step, 0.5 * (low + high)) - v
        v = v + step
    if dtype != jnp.float32:
        v = v.astype(dtype)
        step, _ = _halley(v, *args, _log_near)
        v = v + step
    # From bounds of h's derivatives, Halley's next step is below |step|^3 ((1 + alpha_S) / alpha_B)^2 / 2.
    found = jnp.abs(step) * ((1 + alpha_S) / alpha_B * step) ** 2 <= jnp.finfo(dtype).eps
    return jnp.exp(_finish(v, found, (jnp.log(floor), *args[1:])))


def _log_near(r, v):
    """log(r) - v where that is small."""
    x = r * jnp.exp(-v) - 1
    return x * (1 - x * (1 / 2 - x * (1 / 3 - x / 4)))


def _finish(v, found, args):
    """v where it is found; the root elsewhere."""
    epsilon = 4 * jnp.finfo(v.dtype).eps
    lower, upper = _bracket(*args)
    ends = jnp.where(found, v, lower), jnp.where(found, v, upper)

    def unfinished(ends):
        low, high = ends
        return jnp.any(high - low > epsilon * jnp.maximum(jnp.abs(high), 1))

    def improve(ends):
        """Newton's step up from the lower end, never past the root of a convex excess; and a halving."""
        low, high = ends
        value, slope = jax.jvp(lambda v: _log_excess(v, args), (low,), (jnp.ones_like(low),))
        middle = 0.5 * (low + high)
        above = _log_excess(middle, args) > 0
        newton = jnp.minimum(low + jnp.maximum(-value / slope, 0), high)
        done = newton - low <= epsilon * jnp.maximum(jnp.abs(high), 1)
        high = jnp.where(done, newton, jnp.where(above, high, middle))
        return jnp.maximum(newton, jnp.where(above, middle, low)), high

    return jax.lax.while_loop(unfinished, improve, ends)[0]


@_loss.defjvp
def _differentiate(primals, tangents):
    """Closed forms, from the derivative of Eq 3.13 on both sides."""
    law, change = primals[0], tangents[0]
    (_, k, q), (dfloor, dk, dq) = jax.jvp(lambda law, *x: law._terms(*x), primals, tangents)
    alpha_S, alpha_B, dalpha_S, dalpha_B = law.alpha_S, law.alpha_B, change.alpha_S, change.alpha_B
    L, steep = _loss(*primals), 1 / alpha_B
    v = jnp.log(L)
    z = q - v * steep
    e = jnp.exp(-jnp.abs(z))
    softplus = jnp.maximum(z, 0) + jnp.log(1 + e)
    t = jnp.exp(k + alpha_S * softplus)
    lean = t * alpha_S * jnp.where(z > 0, 1, e) / (1 + e)
    whole = L / (L + lean * steep)
    return L, whole * dfloor + whole * t * (dk + softplus * dalpha_S) + whole * lean * (
        dq + v * steep**2 * dalpha_B)
