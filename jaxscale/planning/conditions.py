"""What a planned run costs, how its batch is chosen, and what limits it: the one cost model of all plans.

A run of N parameters on D tokens costs c(N) D FLOPs of training and i(N) T of inference, T tokens over the model's
life, and takes the time of its S steps or that of its FLOPs on all devices, whichever is longer. All is in logs, as
float32 has no square of 6 N.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

CRITICAL = ("minimum_loss", "minimum_tokens", "critical_batch_size")  # methods of a law that says what a batch does


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Costs:
    """FLOPs of a token, functions of N as pytrees: of training, and of inference."""

    training: Partial
    inference: Partial


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Ratio:
    """The policy B = ratio B_crit(L), at which D = tokens E_min."""

    ratio: float
    tokens: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class InTime:
    """The policy that fills the time there is with the shortest steps: the smallest batch, so the fewest tokens."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AllDevices:
    """The policy that keeps all devices busy for the least time of a step: the fewest days."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Conditions:
    """What holds for a plan besides its aim; None is what does not apply."""

    batch: object = None  # a policy, tokens per step, or None
    inference_tokens: float | None = None
    unique_tokens: float | None = None
    max_N: float | None = None
    max_tokens: float | None = None
    seconds: float | None = None  # that the run may take
    rate: float | None = None  # FLOP/s of all devices
    step: float | None = None  # least seconds of a step
    largest_batch: float | None = None

    @property
    def by_policy(self):
        return isinstance(self.batch, Ratio | InTime | AllDevices)

    @property
    def limited(self):
        """Whether more than a budget limits the tokens."""
        return self.max_tokens is not None or self.seconds is not None


def log_inference(x, costs, conditions):
    """ln of the FLOPs of inference at N = exp(x)."""
    return jnp.log(costs.inference(jnp.exp(x))) + jnp.log(conditions.inference_tokens)


def log_compute(x, log_D, costs, conditions):
    """ln of the FLOPs of a run, over the model's life."""
    training = jnp.log(costs.training(jnp.exp(x))) + log_D
    return training if conditions.inference_tokens is None else jnp.logaddexp(
        training, log_inference(x, costs, conditions))


def log_tokens(x, budget, costs, conditions):
    """ln of the tokens that N = exp(x) parameters may see, of laws without a policy: what the tightest limit leaves."""
    price, left = jnp.log(costs.training(jnp.exp(x))), jnp.log(budget)
    if conditions.inference_tokens is not None:
        share = jnp.exp(log_inference(x, costs, conditions) - left)
        left = left + jnp.log1p(-jnp.minimum(share, 1 - jnp.finfo(share.dtype).eps))
    most = [left - price]
    if conditions.max_tokens is not None:
        most.append(jnp.log(conditions.max_tokens) + 0 * x)
    if conditions.seconds is not None:
        most.append(jnp.log(conditions.rate) + jnp.log(conditions.seconds) - price)
        if conditions.step is not None:
            most.append(jnp.log(conditions.seconds) - jnp.log(conditions.step) + jnp.log(conditions.batch) + 0 * x)
    return jnp.min(jnp.stack(most), axis=0) if len(most) > 1 else most[0]


def at_loss(law, x, loss, costs, conditions):
    """ln D, S and B of the run of N = exp(x) parameters to a loss, by the policy: Eq 3.10 of Su et al. 2024."""
    policy, N = conditions.batch, jnp.exp(x)
    tokens, critical = law.minimum_tokens(N, loss), law.critical_batch_size(loss)
    if isinstance(policy, InTime):
        S = conditions.seconds / conditions.step + 0 * tokens
        spare = S - tokens / critical
        B = jnp.where(spare > 0, tokens / jnp.where(spare > 0, spare, 1.0), jnp.inf)
        return jnp.log(B) + jnp.log(S), S, B
    if isinstance(policy, Ratio) and conditions.largest_batch is None:
        log_D, B = jnp.log(policy.tokens * tokens), policy.ratio * critical
    else:
        ratio = policy.ratio if isinstance(policy, Ratio) else (
            jnp.exp(jnp.log(conditions.rate) + jnp.log(conditions.step) - jnp.log(costs.training(N))) / critical)
        if conditions.largest_batch is not None:
            ratio = jnp.minimum(ratio, conditions.largest_batch / critical)
        log_D, B = jnp.log((1 + ratio) * tokens), ratio * critical
    return log_D, jnp.exp(log_D) / B, B


def excesses(x, log_D, S, B, costs, conditions):
    """ln of what a run takes over what it may take, for each limit but the budget: all fall as the loss rises."""
    over = []
    if conditions.max_tokens is not None:
        over.append(log_D - jnp.log(conditions.max_tokens))
    if conditions.seconds is not None:
        seconds = jnp.log(conditions.seconds)
        over.append(jnp.log(costs.training(jnp.exp(x))) + log_D - jnp.log(conditions.rate) - seconds)
        if isinstance(conditions.batch, InTime):
            if conditions.largest_batch is not None:
                over.append(jnp.log(B) - jnp.log(conditions.largest_batch))
        elif conditions.step is not None:
            over.append(jnp.log(S) + jnp.log(conditions.step) - seconds)
    return over
