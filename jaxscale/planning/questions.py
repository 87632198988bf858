"""The front door of plans: what was asked, checked, as a law, an aim, costs and conditions."""

import dataclasses
import math

import jax
import numpy as np
from jax.tree_util import Partial

from jaxscale.errors import InputError, nearest
from jaxscale.laws.base import as_floats
from jaxscale.laws.kaplan_nsb import KaplanNSB
from jaxscale.planning.conditions import CRITICAL, Conditions, Costs, InTime, Ratio
from jaxscale.planning.hardware import DAY, Hardware
from jaxscale.planning.search import BUDGETS, in_blocks, solve
from jaxscale.units import six_n

INPUTS = ("N", "D", "S", "B", "C", "M", "unique_tokens")
LIMITS = {"inference_tokens": "tokens", "unique_tokens": "tokens", "max_N": "parameters", "max_tokens": "tokens",
          "max_days": "days"}  # names of numbers in a question, and their units


@dataclasses.dataclass(frozen=True)
class Tradeoff:
    """Steps weighed against tokens; made by `tradeoff`."""

    weight: float


def tradeoff(weight):
    """The batch that minimises weight S/S_min + D/E_min: steps (time) count `weight` times as much as tokens.

    By Su et al. 2024, Eq 3.10 and section 5: B = sqrt(weight) B_crit, S = S_min (1 + 1/sqrt(weight)) and
    D = E_min (1 + sqrt(weight)). tradeoff(1) is the critical batch size.

    Raises:
      InputError: the weight is not a positive number.

    Example:
      >>> tradeoff(4)
      Tradeoff(weight=4.0)
    """
    return Tradeoff(float(positive(weight, "tradeoff's weight", "steps for a token", one=True)))


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """What a plan answers; a plan has the shape `axis` + `shape`, of the laws and of all numbers asked."""

    law: object
    aims: np.ndarray
    costs: Costs
    conditions: Conditions
    inverse: bool
    hardware: Hardware | None
    axis: tuple
    shape: tuple

    def flat(self, tree):
        """The leaves of a tree, of a number or of the shape of a plan, along one axis."""
        return jax.tree.map(lambda x: np.broadcast_to(x, self.axis + self.shape).ravel(), tree)

    def laws(self):
        """The laws along the same axis."""
        repeats = math.prod(self.shape)
        return jax.tree.map(lambda x: np.repeat(np.broadcast_to(x, self.axis), repeats), self.law)

    def solved(self, solver=solve, aims=None, inverse=None):
        """What a solver of `search` finds, along one axis."""
        return in_blocks(solver, self.laws(), self.flat(self.aims if aims is None else aims), self.costs,
                         self.flat(self.conditions), self.inverse if inverse is None else inverse)


def question(law_or_fit, aims, inverse, batch="critical", convention="exact", flops_per_token=six_n,
             inference_flops_per_token=None, hardware=None, **numbers):
    """The question of `plan`, checked. `numbers` are those of LIMITS."""
    law = checked_law(law_or_fit)
    if batch is not None and not isinstance(batch, (str, Tradeoff)):
        batch = float(positive(batch, "batch", "tokens per step (or 'critical', or tradeoff(w))", one=True))
    numbers = {name: None if value is None else positive(value, name, LIMITS[name])
               for name, value in numbers.items()}
    if numbers.get("max_N") is not None and np.any(numbers["max_N"] < 1):
        raise InputError(f"max_N must be at least one parameter, not {np.min(numbers['max_N']):g}.")
    if hardware is not None and not isinstance(hardware, Hardware):
        raise InputError(f"hardware must be a jsc.Hardware, not {hardware!r}.")
    costs, conditions = terms(law, batch, convention, flops_per_token, inference_flops_per_token, hardware, **numbers)
    if convention == "printed" and np.any(law.E != 0):
        raise InputError("convention='printed' is for laws without a floor, and E is not 0 here: use 'exact'.")
    if hardware is not None and hardware.least_step_time and conditions.batch is None:
        raise InputError(f"{type(law).__name__} knows no steps, and hardware's least_step_time is of steps: give "
                         "batch= in tokens per step (--batch), 1e6 say.")
    if hardware is not None and conditions.largest_batch is not None and isinstance(batch, float):
        if batch > conditions.largest_batch:
            raise InputError(f"batch={batch:g} is more than the hardware's largest_batch, {hardware.largest_batch:g}.")
    given = [value for value in numbers.values() if value is not None]
    try:
        shape = np.broadcast_shapes(aims.shape, *(value.shape for value in given))
    except ValueError:
        raise InputError("the aim and the limits must be numbers or arrays of shapes that broadcast, not "
                         f"{', '.join(str(value.shape) for value in (aims, *given))}.") from None
    axis = np.broadcast_shapes(*map(np.shape, jax.tree.leaves(law)))  # () or (laws,)
    return Question(law, np.broadcast_to(aims, shape), costs, conditions, inverse, hardware, axis, shape)


def terms(law, batch="critical", convention="exact", flops_per_token=six_n, inference_flops_per_token=None,
          hardware=None, *, inference_tokens=None, unique_tokens=None, max_N=None, max_tokens=None, max_days=None):
    """Costs and conditions, from numbers that are right already or are traced."""
    for name, cost in (("flops_per_token", flops_per_token), ("inference_flops_per_token", inference_flops_per_token)):
        if not callable(cost) and (cost is not None or name == "flops_per_token"):
            raise InputError(f"{name} must be a function of N, such as units.six_n, not {cost!r}.")
    training = as_pytree(flops_per_token)
    inference = Partial(_forward, training) if inference_flops_per_token is None else as_pytree(
        inference_flops_per_token)
    if max_days is not None and hardware is None:
        raise InputError("max_days needs hardware=, a jsc.Hardware that says how fast a run is (--devices, --flops, "
                         "--utilisation).")
    if "unique_tokens" in law.inputs and unique_tokens is None:
        raise InputError(f"{type(law).__name__} reads unique_tokens, how many tokens there are before any is repeated: "
                         "give unique_tokens= (--unique-tokens).")
    if unique_tokens is not None and "unique_tokens" not in law.inputs:
        raise InputError(f"{type(law).__name__} does not say what repeated tokens are worth, so unique_tokens is of no "
                         "use: plan a laws.DataConstrained, or give max_tokens= for no repeats.")
    plain = all(given is None for given in (inference_tokens, max_N, max_tokens, hardware))
    free = batch is None and max_days is not None and hardware.least_step_time > 0
    policy = _policy(law, batch, convention, flops_per_token is six_n and plain, free)
    devices = {} if hardware is None else dict(
        seconds=None if max_days is None else max_days * DAY, rate=hardware.rate,
        step=hardware.least_step_time or None, largest_batch=hardware.largest_batch)
    return Costs(training, inference), Conditions(policy, inference_tokens, unique_tokens, max_N, max_tokens, **devices)


def as_pytree(function):
    return function if isinstance(function, Partial) else Partial(function)


def _forward(training, N):
    """Of the training FLOPs, forward is a third: 2 N of 6 N."""
    return training(N) / 3


def check_compute(compute):
    """`compute` as float64, in FLOPs. Raises InputError for what is no number, or no budget for any law."""
    budget = positive(compute, "compute", "FLOPs")
    outside = (budget < BUDGETS[0]) | (budget > BUDGETS[1])
    if np.any(outside):
        raise InputError(f"compute must be between {BUDGETS[0]:.0e} and {BUDGETS[1]:.0e} FLOPs, not "
                         f"{budget[outside][0]:g}, beyond any law: is it in FLOPs (1 PF-day is 8.64e19)?")
    return budget


def checked_law(law_or_fit):
    """The law to plan, in NumPy float64."""
    law = getattr(law_or_fit, "law", law_or_fit)
    if hasattr(law_or_fit, "members"):
        raise InputError("plan needs one law, and a pool has several: it plans by itself, pool.plan(1e21).")
    if isinstance(law, type) or not hasattr(law, "constants"):
        raise InputError(f"plan needs a law with its constants, or a fit, not {law!r}: laws.published['hoffmann2022'], "
                         "say.")
    name = type(law).__name__
    foreign = [column for column in law.inputs if column not in INPUTS]
    if law.output != "loss" or foreign:
        reads = f"reads {foreign[0]!r}" if foreign else f"gives {law.output!r}"
        raise InputError("plan needs a law that gives the loss and reads only N, D, S, B, C, M = D/N and "
                         f"unique_tokens, and {name} {reads}: use predict.")
    if len(set(law.inputs) - {"B", "unique_tokens"}) < 2:
        raise InputError(f"{name} reads only {' and '.join(law.inputs)}: with nothing to trade at a fixed compute "
                         "it has no optimum; use predict, or plan a law of N and of D, S or M.")
    law = as_floats(law)
    shapes = {np.shape(value) for value in jax.tree.leaves(law)} - {()}
    if len(shapes) > 1 or any(len(shape) > 1 for shape in shapes):
        raise InputError(f"many laws must share one leading axis, and the constants of this {name} have the shapes "
                         f"{sorted(shapes)}: flatten them.")
    if not shapes and not np.all(np.isfinite(jax.tree.leaves(law))):
        raise InputError(f"plan needs finite constants, and this is {law}: correct them, or fit again.")
    return law


def positive(value, name, unit, one=False):
    """`value` as a float64 array, all positive and finite."""
    array = np.asarray(value)
    try:
        array = array.astype(np.float64) if array.dtype.kind in "iufO" else np.array(np.nan)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    bad = ~((array > 0) & (array < np.inf))
    if array.size == 0 or np.any(bad) or (one and array.ndim):
        there = f"{array[bad][0]:g}" if array.size > 1 and np.any(bad) else repr(value)
        raise InputError(f"{name} must be {'a positive number' if one else 'positive'}, in {unit}, not {there}.")
    return array


def _known(value, name, choices, more=""):
    if value not in choices:
        raise InputError(f"{name} must be {' or '.join(map(repr, choices))}{more}, not {value!r}"
                         f"{nearest(value, choices) or '.'}")


def says_critical(law):
    """Whether a law says what a batch does: how few tokens and steps a loss takes, and at which batch."""
    return "B" in law.inputs and all(hasattr(law, method) for method in CRITICAL)


def _policy(law, batch, convention, plain, free):
    """How the batch is chosen: None (there is none), tokens per step, or a policy."""
    name, critical = type(law).__name__, isinstance(batch, str)
    _known(convention, "convention", ("exact", "printed"))
    if critical:
        _known(batch, "batch", ("critical",), ", tokens per step or tradeoff(w)")
    if convention == "printed":
        if not (isinstance(law, KaplanNSB) and critical and plain):
            raise InputError("convention='printed' is for a KaplanNSB at batch='critical' with 6 N FLOPs per token and "
                             f"no limits, and this is {name} with batch={batch!r} or other costs: use 'exact'.")
        return Ratio(1.0, 1.0)
    if not {"S", "B"} & set(law.inputs) and not isinstance(batch, Tradeoff):
        return None if critical else batch
    tells = says_critical(law)
    if batch is None and tells and free:
        return InTime()
    if batch is None and "B" in law.inputs:
        raise InputError("batch=None leaves the batch free, which has no finite optimum (B to 0, S to infinity) "
                         "without max_days= and hardware= with a least_step_time (--max-days, --least-step-time): "
                         "give 'critical', tradeoff(w) or tokens per step.")
    if batch is None or critical or isinstance(batch, Tradeoff):
        if not tells:
            raise InputError(f"{name} has no critical batch size: give batch= in tokens per step, 1e6 say.")
        k = 1.0 if critical else math.sqrt(batch.weight)
        return Ratio(k, 1 + k)
    return batch


def refuse(asked, aim):
    """Why there is no plan for this aim."""
    name, ends = type(asked.law).__name__, "a model of one parameter, or a run of one token or step"
    held = asked.conditions
    limits = {"inference_tokens": held.inference_tokens, "unique_tokens": held.unique_tokens,
              "max_N": held.max_N, "max_tokens": held.max_tokens,
              "max_days": None if held.seconds is None else held.seconds / DAY}
    within = "".join(f" with {limit}={_span(value)}" for limit, value in limits.items() if value is not None)
    if not asked.inverse:
        raise InputError(f"{name} has no optimum at compute={aim:g}{within} that can be told from an end, {ends}: try "
                         "another budget, and check the law's constants.")
    policy = held.batch if isinstance(held.batch, Ratio) or not held.by_policy else Ratio(1.0, 2.0)
    unlimited = dataclasses.replace(asked, conditions=Conditions(policy, unique_tokens=held.unique_tokens))
    most = unlimited.solved(aims=np.array(BUDGETS[1]), inverse=False)
    least = np.min(np.nan_to_num(most.loss, nan=np.inf))
    if aim < least < np.inf:
        raise InputError(f"loss={aim:g} is out of reach, {name} gives {least:.6g} at {BUDGETS[1]:.0e} FLOPs: ask for "
                         "more than that.")
    if within:
        raise InputError(f"{name} reaches loss={aim:g} in no run{within}: allow more.")
    raise InputError(f"{name} has no plan for loss={aim:g}, it is reached at an end, {ends}: ask for a lower loss.")


def _span(value):
    return " to ".join(f"{end:g}" for end in sorted({float(np.min(value)), float(np.max(value))}))
