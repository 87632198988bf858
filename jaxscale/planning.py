"""Plan a run: the model, data and batch of least loss for a budget, or of least budget for a loss.

    plan = jsc.plan(fit, compute=1e21)     # Plan: compute, N, D, S, B, loss
    jsc.plan(law, loss=2.0)                # the least compute that reaches a loss
    jsc.plan(fit.bootstrap(4000), compute=1e21).interval(0.8)

At a fixed budget a larger model sees fewer tokens. At the optimum the slope of the loss in ln N is zero: the slope
comes from autodiff, its zero is bracketed, and as it stays zero the optimum has exact derivatives too (`optimum`). Any
law of N, D, S, B, C and M = D/N is planned like this; closed forms only test it.
"""

import dataclasses
import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxscale.errors import InputError, nearest
from jaxscale.laws.base import as_floats
from jaxscale.laws.kaplan_nsb import KaplanNSB
from jaxscale.prediction import outside
from jaxscale.roots import root
from jaxscale.units import six_n

BUDGETS = (1e6, 1e35)  # FLOPs
POINTS, PASSES = 64, 10  # of the search in ln N: 63^10 > 2^53
BLOCK = 1024  # laws and budgets solved side by side
INPUTS = ("N", "D", "S", "B", "C", "M")
METHODS = ("minimum_loss", "minimum_tokens", "critical_batch_size")  # of a law that can be planned at B_crit


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What to train: NumPy float64 numbers, or arrays [budgets], [laws] or [laws, budgets].

    S and B are None where the law knows no batch and none was given. Where one law of many has no optimum: NaN; where
    it cannot reach the loss asked for, compute, N, D and S are infinite.
    """

    compute: np.ndarray  # FLOPs
    N: np.ndarray  # parameters
    D: np.ndarray  # tokens
    S: np.ndarray | None  # steps
    B: np.ndarray | None  # tokens per step
    loss: np.ndarray  # nats per token
    laws: int | None = None  # length of the leading axis where that is one of laws

    def interval(self, level=0.8):
        """The lower and the upper ends, as two plans: percentiles over the laws, each quantity by itself.

        A law that cannot reach the loss asked for counts as one that needs infinite compute; one without an optimum is
        left out. Either is said in a warning.

        Raises:
          InputError: the plan is of one law, or level is not between 0 and 1.

        Example:
          >>> from jaxscale import laws
          >>> three = laws.Chinchilla(E=1.69, A=406.4, B=410.7, alpha=[0.33, 0.34, 0.35], beta=0.28)
          >>> low, high = plan(three, compute=1e21).interval(0.8)
          >>> print(f"{low.N:.1e} to {high.N:.1e} parameters")
          1.5e+09 to 2.3e+09 parameters
        """
        if self.laws is None:
            raise InputError("an interval needs a plan of many laws, and this one is of a single law: plan a "
                             "bootstrap or a sample, as in plan(fit.sample(1000), compute=1e21).")
        if not 0 < level < 1:
            raise InputError(f"level must be between 0 and 1, not {level!r}: 0.8 is the middle 80%.")
        for lost, what in ((np.isnan(self.N), "have no optimum here: the interval leaves them out."),
                           (np.isinf(self.N), "cannot reach this loss: to the interval they need infinite compute.")):
            count = int(np.max(np.sum(lost, axis=0)))
            if count:
                warnings.warn(f"{count} of {self.laws} laws {what}", stacklevel=2)
        return tuple(Plan(*(None if x is None else _quantile(x, q) for x in self._quantities().values()))
                     for q in (0.5 - level / 2, 0.5 + level / 2))

    def _quantities(self):
        return {name: getattr(self, name) for name in ("compute", "N", "D", "S", "B", "loss")}

    def __str__(self):
        units = "FLOPs", "parameters", "tokens", "steps", "tokens per step", "nats per token"
        lines = []
        for (name, value), unit in zip(self._quantities().items(), units, strict=True):
            digits = {"float": "{:.4f}".format if name == "loss" else "{:.3e}".format}
            if value is not None:
                lines.append(f"{name:8}{np.array2string(np.asarray(value), threshold=8, formatter=digits)} {unit}")
        return "\n".join(lines)


def _quantile(x, q):
    """A quantile over the first axis, NaN left out, infinity the largest of all numbers."""
    found = np.nanquantile(np.minimum(x, 1e300), q, axis=0)
    return np.where(found > 1e200, np.inf, found)[()]


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


def plan(law_or_fit, *, compute=None, loss=None, batch="critical", convention="exact", flops_per_token=six_n):
    """The least loss for a compute, or the least compute for a loss, and the run that gets there.

    The run costs C = flops_per_token(N) D FLOPs, with D = B S. The batch is a policy: left free it has no finite
    optimum, as a smaller batch always saves tokens (B to 0, S to infinity).

    Args:
      law_or_fit: a law of N and of D, S or M = D/N (also B, C), its constants numbers, or arrays with one axis for many
        laws; or a Fit or Bootstrap of one.
      compute: FLOPs, from 1e6 to 1e35; a number or an array.
      loss: instead of compute, the loss to reach, in nats; a number or an array.
      batch: "critical" for B = B_crit(L), where S = 2 S_min and D = 2 E_min; `tradeoff(w)`; or tokens per step. Laws
        of N and D need none, and with a number the plan says their steps.
      convention: "exact"; or "printed" for Eq 5.1 of Su et al. 2024 as printed, which spends 6 N B_crit S but counts
        S as S_min in the loss: C is then C_min, S and D are S_min and E_min, and loss is L(N, S_min). Its N and S at C
        are the exact N and half the exact S at 2 C. For a KaplanNSB with E = 0 at the critical batch only.
      flops_per_token: training FLOPs per token of N parameters, a function of JAX arrays; 6 N unless given.

    Returns:
      A Plan in the shape of `compute` or `loss`, after the axis of laws where there is one.

    Raises:
      InputError: no such plan: a bad number, a law of something else or without a trade-off, a loss out of reach.

    Example:
      >>> from jaxscale import laws
      >>> print(plan(laws.published["su2024-c4"], compute=1e21))
      compute 1.000e+21 FLOPs
      N       2.530e+09 parameters
      D       6.588e+10 tokens
      S       3.850e+04 steps
      B       1.711e+06 tokens per step
      loss    2.5669 nats per token
    """
    law = _law(law_or_fit)
    inverse = compute is None
    if inverse == (loss is None):
        raise InputError(f"plan needs one of compute= and loss=, not {'neither' if inverse else 'both'}.")
    aims = positive(loss, "loss", "nats") if inverse else check_compute(compute)
    if batch is not None and not isinstance(batch, (str, Tradeoff)):
        batch = float(positive(batch, "batch", "tokens per step (or 'critical', or tradeoff(w))", one=True))
    problem = _policy(law, batch, convention, flops_per_token), Partial(flops_per_token), inverse
    if convention == "printed" and np.any(law.E != 0):
        raise InputError("convention='printed' is for laws without a floor, and E is not 0 here: use 'exact'.")

    axis = np.broadcast_shapes(*map(np.shape, jax.tree.leaves(law)))  # () or (laws,)
    shape = axis + aims.shape
    laws = jax.tree.map(lambda x: np.repeat(np.broadcast_to(x, axis), aims.size), law)
    found = _in_blocks(laws, np.broadcast_to(aims, shape).ravel(), *problem)
    lost = np.isnan(found[1]) | (found[0] < BUDGETS[0]) | (found[0] > BUDGETS[1])
    finite = np.all([np.isfinite(x) for x in jax.tree.leaves(laws)], axis=0)
    ends = (np.inf, np.inf, np.inf, np.inf, np.nan, np.broadcast_to(aims, shape).ravel())
    found = [None if x is None else np.where(lost, np.where(finite & inverse, end, np.nan), x).reshape(shape)[()]
             for x, end in zip(found, ends, strict=True)]
    hopeless = np.all(lost.reshape((-1,) + aims.shape), axis=0)
    if np.any(hopeless):
        _refuse(laws, aims[hopeless].flat[0], *problem)
    ranges = getattr(law_or_fit, "facts", {}).get("ranges", {})
    columns = {name: x for name, x in zip(("N", "D", "S", "B"), found[1:5], strict=True) if x is not None}
    for sentence in outside(ranges, columns):
        warnings.warn(f"{sentence}: this is an extrapolation.", stacklevel=2)
    return Plan(*found, laws=axis[0] if axis else None)


def check_compute(compute):
    """`compute` as float64, in FLOPs. Raises InputError for what is no number, or no budget for any law."""
    budget = positive(compute, "compute", "FLOPs")
    outside = (budget < BUDGETS[0]) | (budget > BUDGETS[1])
    if np.any(outside):
        raise InputError(f"compute must be between {BUDGETS[0]:.0e} and {BUDGETS[1]:.0e} FLOPs, not "
                         f"{budget[outside][0]:g}, beyond any law: is it in FLOPs (1 PF-day is 8.64e19)?")
    return budget


def optimum(law, compute, batch="critical", convention="exact", flops_per_token=six_n):
    """What `plan` finds for a compute, as a pure function for use inside `jit`, `vmap` and `grad`.

    Takes one law and a number or array of compute, in the caller's dtype; the others as in `plan`.

    Returns:
      (N, D, S, B, loss) in the shape of `compute`, S and B None as in `plan`; NaN where there is no optimum between a
      model of one parameter and a run of one token or step.

    Example:
      >>> from jaxscale import laws
      >>> law = laws.Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
      >>> exponent = jax.grad(lambda log_C: jnp.log(optimum(law, jnp.exp(log_C))[0]))(jnp.log(1e21))
      >>> print(round(float(exponent), 3))  # beta / (alpha + beta)
      0.452
    """
    policy = _policy(law, batch, convention, flops_per_token)

    def solve(compute):
        return _solve(law, compute, policy, Partial(flops_per_token), False)[1:]

    for _ in range(jnp.ndim(compute)):
        solve = jax.vmap(solve)
    return solve(compute)


def _law(law_or_fit):
    """The law to plan, in NumPy float64."""
    law = getattr(law_or_fit, "law", law_or_fit)
    if isinstance(law, type) or not hasattr(law, "constants"):
        raise InputError(f"plan needs a law with its constants, or a fit, not {law!r}: laws.published['hoffmann2022'], "
                         "say.")
    name = type(law).__name__
    foreign = [column for column in law.inputs if column not in INPUTS]
    if law.output != "loss" or foreign:
        reads = f"reads {foreign[0]!r}" if foreign else f"gives {law.output!r}"
        raise InputError(f"plan needs a law that gives the loss and reads only N, D, S, B, C and M = D/N, and {name} "
                         f"{reads}: use predict.")
    if len(set(law.inputs) - {"B"}) < 2:
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


def _policy(law, batch, convention, flops_per_token):
    """How the batch is chosen: None (there is none), B in tokens, or (k, m) for B = k B_crit(L) and D = m E_min."""
    name, critical = type(law).__name__, isinstance(batch, str)
    if not callable(flops_per_token):
        raise InputError(f"flops_per_token must be a function of N, such as units.six_n, not {flops_per_token!r}.")
    _known(convention, "convention", ("exact", "printed"))
    if critical:
        _known(batch, "batch", ("critical",), ", tokens per step or tradeoff(w)")
    if convention == "printed":
        if not (isinstance(law, KaplanNSB) and critical and flops_per_token is six_n):
            raise InputError("convention='printed' is for a KaplanNSB at batch='critical' with 6 N FLOPs per token, "
                             f"and this is {name} with batch={batch!r} or another cost: use 'exact'.")
        return 1.0, 1.0
    if not {"S", "B"} & set(law.inputs) and not isinstance(batch, Tradeoff):
        return None if critical else batch
    if batch is None and "B" in law.inputs:
        raise InputError("batch=None leaves the batch free, which has no finite optimum (B to 0, S to infinity): give "
                         "'critical', tradeoff(w) or tokens per step.")
    if batch is None or critical or isinstance(batch, Tradeoff):
        if "B" not in law.inputs or not all(hasattr(law, method) for method in METHODS):
            raise InputError(f"{name} has no critical batch size: give batch= in tokens per step, 1e6 say.")
        k = 1.0 if critical else math.sqrt(batch.weight)
        return k, 1 + k
    return batch


def _refuse(laws, aim, policy, cost, inverse):
    """Why there is no plan."""
    name, ends = type(laws).__name__, "a model of one parameter, or a run of one token or step"
    if not inverse:
        raise InputError(f"{name} has no optimum at compute={aim:g} that can be told from an end, {ends}: try "
                         "another budget, and check the law's constants.")
    most = np.full(len(jax.tree.leaves(laws)[0]), BUDGETS[1])
    least = np.min(np.nan_to_num(_in_blocks(laws, most, policy, cost, False)[-1], nan=np.inf))
    if aim < least < np.inf:
        raise InputError(f"loss={aim:g} is out of reach, {name} gives {least:.6g} at {BUDGETS[1]:.0e} FLOPs: ask for "
                         "more than that.")
    raise InputError(f"{name} has no plan for loss={aim:g}, it is reached at an end, {ends}: ask for a lower loss.")


# The numerics: one law, one aim, no checks. The aim is a compute or, inverse, a loss: the two then swap roles. `cost`
# is the cost model, as a pytree without leaves.


def _run(x, args, inverse):
    """Of the run of N = exp(x) parameters that meets the aim: compute, N, D, S, B, loss."""
    law, aim, policy, cost = args
    N = jnp.exp(x)
    price = jnp.log(cost(N))
    log_D = None if inverse else jnp.log(aim) - price  # in logs: float32 has no square of 6 N
    if isinstance(policy, tuple):
        k, m = policy
        loss = aim if inverse else _loss_after(law, N, log_D - jnp.log(m))
        log_D = jnp.log(m * law.minimum_tokens(N, loss)) if inverse else log_D
        B = k * law.critical_batch_size(loss)
    else:
        if inverse:
            ends = (jnp.full_like(N, end) for end in (-5.0, 85.0, 25.0))
            log_D = root(_above, *ends, (law, x, aim, policy, cost))
        B, loss = policy, _loss(law, x, log_D, policy, cost)
    D = jnp.exp(log_D)
    return jnp.exp(price + log_D) if inverse else aim, N, D, None if B is None else D / B, B, loss


def _loss(law, x, log_D, B, cost):
    N, D = jnp.exp(x), jnp.exp(log_D)
    C, M = jnp.exp(jnp.log(cost(N)) + log_D), jnp.exp(log_D - x)
    quantities = {"N": N, "D": D, "S": None if B is None else D / B, "B": B, "C": C, "M": M}
    return law(*(quantities[name] for name in law.inputs))


def _above(log_D, args):
    """log of the loss over the one wanted: falls as the tokens rise."""
    law, x, wanted, policy, cost = args
    return jnp.log(_loss(law, x, log_D, policy, cost) / wanted)


def _loss_after(law, N, log_tokens):
    """The loss whose E_min is given, or the first that half the digits can tell from minimum_loss."""
    least = law.minimum_loss(N)
    enough = jnp.log(law.minimum_tokens(N, least * (1 + _half_the_digits(least))))
    start = jax.lax.stop_gradient(jnp.log(least))
    ends = start + jnp.log(0.5 * _half_the_digits(least)), start + 30, start - 2
    return least + jnp.exp(root(_shortage, *ends, (law, N, jnp.minimum(log_tokens, enough))))


def _half_the_digits(x):
    return 8 * jnp.sqrt(jnp.finfo(x.dtype).eps)


def _shortage(y, args):
    """log of the E_min of a loss exp(y) above the minimum, over the tokens there are: falls as y rises."""
    law, N, log_tokens = args
    return jnp.log(law.minimum_tokens(N, law.minimum_loss(N) + jnp.exp(y))) - log_tokens


def _price(x, args, inverse):
    """What is least at the optimum, inf where there is no such run, and its slope in x = ln N."""
    law, aim, policy, _ = args

    def price(x):
        compute, N, D, S, _, loss = _run(x, args, inverse)
        reached = (D < jnp.inf) & (loss <= (aim * (1 + 1e-6) if inverse else jnp.inf))
        real = reached & (D >= 1) & (True if S is None else S >= 1)
        if isinstance(policy, tuple):
            real &= loss > law.minimum_loss(N) * (1 + 4 * _half_the_digits(loss))
        return jnp.log(compute) if inverse else loss, (reached, real)

    value, slope, (reached, real) = jax.jvp(price, (x,), (jnp.ones_like(x),), has_aux=True)
    return jnp.where(real, value, jnp.inf), jnp.where(reached, slope, -1.0)  # out of reach: too small a model


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _best(args, inverse):
    """ln N of the optimum; NaN where an end is better: one parameter, or one token or step.

    A grid is laid over ln N, then again between the two points where the slope turns, until these are neighbours. The
    slope brackets, as it is exact even where the value is flat to rounding; the value chooses among several minima.
    """
    t = jnp.linspace(0.0, 1.0, POINTS)

    def narrow(count, ends):
        x = ends[0] * (1 - t) + ends[1] * t
        value, slope = _price(x, args, inverse)
        turns = (slope[:-1] < 0) & (slope[1:] >= 0)
        lower = jnp.minimum(value[:-1], value[1:])
        i = jnp.argmin(jnp.where(turns, lower, jnp.inf))
        least = lower[i] <= jnp.min(value) + 64 * jnp.finfo(value.dtype).eps * jnp.abs(lower[i])
        good = turns[i] & (lower[i] < jnp.inf) & (least | (count > 0))
        return jnp.where(good, x[i], ends[0]), jnp.where(good, x[i + 1], ends[1])

    widest = jnp.log(jnp.full_like(args[1], BUDGETS[1]) if inverse else args[1])
    low, high = jax.lax.fori_loop(0, PASSES, narrow, (jnp.zeros_like(widest), widest))
    return jnp.where(high - low < _half_the_digits(low), 0.5 * (low + high), jnp.nan)


@_best.defjvp
def _differentiate(inverse, primals, tangents):
    """The slope stays zero: the rule of `root`, its bracket closed on the optimum."""
    x = _best(*primals, inverse)

    def slope(x, args):
        return _price(x, args, inverse)[1]

    return jax.jvp(lambda args: root(slope, x, x, x, args, True), primals, tangents)


@functools.partial(jax.jit, static_argnames="inverse")
def _solve(laws, aims, policy, cost, inverse):
    """compute, N, D, S, B, loss, of one law and aim or of an axis of both."""

    def one(law, aim):
        args = law, aim, policy, cost
        return _run(_best(args, inverse), args, inverse)

    return jax.vmap(one)(laws, aims) if jnp.ndim(aims) else one(laws, aims)


def _in_blocks(laws, aims, policy, cost, inverse):
    """`_solve` in float64 along one axis, in blocks of one width: compiled once for many laws and budgets."""
    count = len(aims)
    width = min(BLOCK, 1 << (count - 1).bit_length())
    shape = (-(-count // width), width) if count > 1 else (1,)
    blocks = jax.tree.map(lambda x: np.resize(x, shape), (laws, aims))
    with jax.enable_x64(True):
        parts = [_solve(*jax.tree.map(lambda x, i=i: x[i], blocks), policy, cost, inverse) for i in range(shape[0])]
        return jax.tree.map(lambda *xs: np.hstack(xs)[:count], *parts)
