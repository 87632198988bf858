"""What a planned run costs, how its batch is chosen, and what limits it: the one cost model of all plans.

A run of N parameters on D tokens costs c(N) D FLOPs of training and i(N) T of inference, T tokens over the model's
life, and takes the time of its S steps or that of its FLOPs on all devices, whichever is longer. All is in logs, as
float32 has no square of 6 N.
"""

import dataclasses
from typing import NamedTuple

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


class Size(NamedTuple):
    """What follows from N alone."""

    N: jax.Array
    training: jax.Array  # ln of the FLOPs of training a token
    inference: jax.Array | None  # ln of the FLOPs of inference over the model's life


def sized(x, costs, conditions):
    """The size of N = exp(x) parameters."""
    N = jnp.exp(x)
    inference = None if conditions.inference_tokens is None else (
        jnp.log(costs.inference(N)) + jnp.log(conditions.inference_tokens))
    return Size(N, jnp.log(costs.training(N)), inference)


def log_compute(size, log_D):
    """ln of the FLOPs of a run, over the model's life."""
    training = size.training + log_D
    return training if size.inference is None else jnp.logaddexp(training, size.inference)


def log_tokens(size, budget, conditions):
    """ln of the tokens that a model may see, of laws without a policy: what the tightest limit leaves."""
    left = jnp.log(budget)
    if size.inference is not None:
        share = jnp.exp(size.inference - left)
        left = left + jnp.log1p(-jnp.minimum(share, 1 - jnp.finfo(share.dtype).eps))
    most = left - size.training
    if conditions.max_tokens is not None:
        most = jnp.minimum(most, jnp.log(conditions.max_tokens))
    if conditions.seconds is not None:
        seconds = jnp.log(conditions.seconds)
        most = jnp.minimum(most, jnp.log(conditions.rate) + seconds - size.training)
        if conditions.step is not None:
            most = jnp.minimum(most, seconds - jnp.log(conditions.step) + jnp.log(conditions.batch))
    return most


def at_loss(law, size, loss, conditions):
    """ln D, S and B of the run of a model to a loss, by the policy: Eq 3.10 of Su et al. 2024."""
    policy = conditions.batch
    tokens, critical = law.minimum_tokens(size.N, loss), law.critical_batch_size(loss)
    if isinstance(policy, InTime):
        S = conditions.seconds / conditions.step + 0 * tokens
        spare = S - tokens / critical
        B = jnp.where(spare > 0, tokens / jnp.where(spare > 0, spare, 1.0), jnp.inf)
        return jnp.log(B) + jnp.log(S), S, B
    if isinstance(policy, Ratio) and conditions.largest_batch is None:
        log_D, B = jnp.log(policy.tokens * tokens), policy.ratio * critical
    else:
        B = policy.ratio * critical if isinstance(policy, Ratio) else jnp.exp(
            jnp.log(conditions.rate) + jnp.log(conditions.step) - size.training)
        B = B if conditions.largest_batch is None else jnp.minimum(B, conditions.largest_batch)
        log_D = jnp.log((1 + B / critical) * tokens)
    return log_D, jnp.exp(log_D) / B, B


def excesses(size, log_D, S, B, conditions):
    """ln of what a run takes over what it may take, for each limit but the budget: all fall as the loss rises."""
    over = []
    if conditions.max_tokens is not None:
        over.append(log_D - jnp.log(conditions.max_tokens))
    if conditions.seconds is not None:
        seconds = jnp.log(conditions.seconds)
        over.append(size.training + log_D - jnp.log(conditions.rate) - seconds)
        if isinstance(conditions.batch, InTime):
            if conditions.largest_batch is not None:
                over.append(jnp.log(B) - jnp.log(conditions.largest_batch))
        elif conditions.step is not None:
            over.append(jnp.log(S) + jnp.log(conditions.step) - seconds)
    return over
