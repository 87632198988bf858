"""`plan` and what it gives: the run of least loss for a budget, or of least compute for a loss."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.errors import InputError
from jaxscale.planning.hardware import training_flops
from jaxscale.planning.questions import Question, check_compute, positive, question, refuse, terms
from jaxscale.planning.search import BUDGETS, solve, solve_flat
from jaxscale.prediction import outside
from jaxscale.units import six_n

UNITS = {"compute": "FLOPs", "serving": "FLOPs of these, for inference", "N": "parameters", "D": "tokens", "S": "steps",
         "B": "tokens per step", "loss": "nats per token", "epochs": "times the unique tokens", "days": "days",
         "devices": "devices busy", "money": "for their hours"}


SPENT = 0.99  # share of a compute below which limits are said to leave some
NEAR = 1e-4  # share of the loss that hardly matters


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What to train: NumPy float64 numbers, or arrays [budgets], [laws] or [laws, budgets].

    What does not apply is None: S and B where the law knows no batch and none was given, serving without inference
    tokens, epochs without unique tokens, days and devices without hardware, money without its price. Where one law of
    many has no optimum: NaN; where it cannot reach the loss asked for, compute, N, D and S are infinite.
    """

    compute: np.ndarray  # FLOPs, those of inference too if asked for
    N: np.ndarray  # parameters
    D: np.ndarray  # tokens
    S: np.ndarray | None  # steps
    B: np.ndarray | None  # tokens per step
    loss: np.ndarray  # nats per token
    laws: int | None = None  # length of the leading axis where that is one of laws
    epochs: np.ndarray | None = None  # D over the unique tokens
    days: np.ndarray | None = None  # of training
    devices: np.ndarray | None = None  # that are busy
    money: np.ndarray | None = None  # for the hours of those
    serving: np.ndarray | None = None  # FLOPs of the compute that are of inference
    asked: Question | None = None

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
        return tuple(Plan(**{name: None if x is None else quantile(x, q) for name, x in self.quantities().items()})
                     for q in (0.5 - level / 2, 0.5 + level / 2))

    def flat(self, extra=0.01, of="compute"):
        """How flat the optimum is: the plans of the smallest and the largest N that cost little more than the best.

        Args:
          extra: how much more, as a share: 0.01 is 1%.
          of: "compute" for the same loss at up to that much more compute, or "loss" for up to that much more loss at
            the same compute.

        Raises:
          InputError: extra is not positive, `of` is neither, or the plan is an end of an interval.

        Example:
          >>> from jaxscale import laws
          >>> low, high = plan(laws.published["hoffmann2022"], compute=1e21).flat(0.01)
          >>> print(f"{low.N:.2e} to {high.N:.2e} parameters")
          1.53e+09 to 2.19e+09 parameters
        """
        extra = float(positive(extra, "extra", "shares of the compute or loss", one=True))
        if of not in ("compute", "loss"):
            raise InputError(f"flat is of 'compute' or of 'loss', not {of!r}.")
        if self.asked is None:
            raise InputError("flat needs a plan that jsc.plan made: the ends of an interval have no law of their own.")
        same_loss = of == "compute"
        with np.errstate(all="ignore"):
            level = np.log(self.compute) + np.log1p(extra) if same_loss else self.loss * (1 + extra)
            aims = self.loss if same_loss else self.compute, np.log(self.N), level
        ends = self.asked.solved(solve_flat, aims, same_loss)
        lost = ~np.isfinite(self.N).ravel()
        return tuple(told(self.asked, [None if x is None else np.where(lost, np.nan, x) for x in end])
                     for end in ends)

    def quantities(self):
        """What the plan says, by name; None is what does not apply."""
        return {name: getattr(self, name) for name in UNITS}

    def __str__(self):
        lines = []
        for name, value in self.quantities().items():
            digits = {"float": {"loss": "{:.4f}", "days": "{:.4g}", "epochs": "{:.4g}"}.get(name, "{:.3e}").format}
            if value is not None:
                shown = np.array2string(np.asarray(value), threshold=8, formatter=digits)
                lines.append(f"{name:8}{shown} {UNITS[name]}")
        return "\n".join(lines)

    __repr__ = __str__


def quantile(x, q):
    """A quantile over the first axis, NaN left out, infinity the largest of all numbers."""
    found = np.nanquantile(np.minimum(x, 1e300), q, axis=0)
    return np.where(found > 1e200, np.inf, found)[()]


def plan(law_or_fit, *, compute=None, loss=None, batch="critical", convention="exact", flops_per_token=six_n,
         inference_tokens=None, inference_flops_per_token=None, unique_tokens=None, max_N=None, max_tokens=None,
         max_days=None, hardware=None):
    """The least loss for a compute, or the least compute for a loss, and the run that gets there.

    The run costs C = flops_per_token(N) D FLOPs, with D = B S, and inference_flops_per_token(N) inference_tokens more.
    The batch is a policy: left free it has no finite optimum, as a smaller batch always saves tokens (B to 0, S to
    infinity), unless time is short. The caps may leave some of a compute unspent.

    Args:
      law_or_fit: a law of N and of D, S or M = D/N (also B, C, unique_tokens), its constants numbers, or arrays with
        one axis for many laws; or a Fit or Bootstrap of one.
      compute: FLOPs, from 1e6 to 1e35; a number or an array.
      loss: instead of compute, the loss to reach, in nats; a number or an array.
      batch: "critical" for B = B_crit(L), where S = 2 S_min and D = 2 E_min; `tradeoff(w)`; or tokens per step. Laws
        of N and D need none, and with a number the plan says their steps. None with max_days is the least batch, so
        the fewest tokens, with which a run of the hardware's shortest steps is done in time.
      convention: "exact"; or "printed" for Eq 5.1 of Su et al. 2024 as printed, which spends 6 N B_crit S but counts
        S as S_min in the loss: C is then C_min, S and D are S_min and E_min, and loss is L(N, S_min). Its N and S at C
        are the exact N and half the exact S at 2 C. For a KaplanNSB with E = 0 at the critical batch only.
      flops_per_token: training FLOPs per token of N parameters, a function of JAX arrays; 6 N unless given, and
        `units.kaplan_cost` or `units.hoffmann_cost` with attention and embeddings.
      inference_tokens: tokens the model will see in use: the compute is then that of its life (Sardana et al. 2023).
      inference_flops_per_token: FLOPs for each of them, a function of N; a third of those of training unless given.
      unique_tokens: how many tokens there are before any is repeated, for a law that reads it (`DataConstrained`).
      max_N, max_tokens, max_days: limits of N, D and the time of training by the hardware.
      hardware: a `Hardware`: the plan then says days, devices and money, and holds B to the largest batch.

    The aims and the numbers from inference_tokens to max_days may be arrays that broadcast. A warning says where limits
    leave a compute unspent, and where much less of it would have come as near.

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
    inverse = compute is None
    if inverse == (loss is None):
        raise InputError(f"plan needs one of compute= and loss=, not {'neither' if inverse else 'both'}.")
    aims = positive(loss, "loss", "nats") if inverse else check_compute(compute)
    numbers = {"inference_tokens": inference_tokens, "unique_tokens": unique_tokens, "max_N": max_N,
               "max_tokens": max_tokens, "max_days": max_days}

    def ask(aims, inverse):
        return answered(question(law_or_fit, aims, inverse, batch, convention, flops_per_token,
                                 inference_flops_per_token, hardware, **numbers))

    found = ask(aims, inverse)
    if not inverse and found.laws is None:
        for sentence in (_unspent(found, numbers), _saturated(found, ask)):
            if sentence:
                warnings.warn(sentence, stacklevel=2)
    ranges = getattr(law_or_fit, "facts", {}).get("ranges", {})
    columns = {name: x for name, x in found.quantities().items() if name in ("N", "D", "S", "B") and x is not None}
    for sentence in outside(ranges, columns):
        warnings.warn(f"{sentence}: this is an extrapolation.", stacklevel=2)
    return found


def _unspent(found, numbers):
    """A sentence where limits leave some of a compute unspent."""
    share = np.min(found.compute / found.asked.aims)
    if not share < SPENT:
        return None
    most = {"max_N": found.N, "max_tokens": found.D, "max_days": found.days}
    binding = [name for name, value in most.items()
               if numbers[name] is not None and np.any(value > (1 - 1e-6) * np.asarray(numbers[name]))]
    return f"{' and '.join(binding) or 'the limits'} leave compute unspent: {share:.2g} of it is used."


def _saturated(found, ask):
    """A sentence where a law of repeated data has little more to give."""
    if found.asked.conditions.unique_tokens is None:
        return None
    near = ask(found.loss * (1 + NEAR), True)
    if not np.any(near.compute < 0.5 * found.compute):
        return None
    least = np.argmin(near.compute / found.compute)
    compute, N, D = (np.ravel(x)[least] for x in (near.compute, near.N, near.D))
    return (f"the law has saturated, more epochs buy nothing: {compute:.3g} FLOPs (N = {N:.3g}, D = {D:.3g}) come "
            f"within {NEAR:.2%} of the loss {np.ravel(found.loss)[least]:.4f}.")


def answered(asked):
    """The plan of a question. Raises InputError where no law has one for an aim."""
    found = asked.solved()
    aims, laws = asked.flat(asked.aims), asked.laws()
    lost = np.isnan(found.N) | (found.compute < BUDGETS[0]) | (found.compute > BUDGETS[1])
    finite = np.all([np.isfinite(x) for x in jax.tree.leaves(laws)], axis=0)
    ends = (np.inf, np.inf, np.inf, np.inf, np.nan, aims)
    hopeless = np.all(lost.reshape(-1, asked.aims.size), axis=0)
    if np.any(hopeless):
        refuse(asked, asked.aims.ravel()[hopeless][0])
    return told(asked, [None if x is None else np.where(lost, np.where(finite & asked.inverse, end, np.nan), x)
                        for x, end in zip(found, ends, strict=True)])


def told(asked, found):
    """What is found for a question as a plan, with what follows from its hardware and unique tokens."""
    found = [None if x is None else x.reshape(asked.axis + asked.shape)[()] for x in found]
    _, N, D, S, _, _ = found
    more = {}
    with np.errstate(all="ignore"):
        if asked.conditions.unique_tokens is not None:
            more["epochs"] = D / asked.conditions.unique_tokens
        if asked.conditions.inference_tokens is not None:
            more["serving"] = training_flops(asked.costs.inference, N) * asked.conditions.inference_tokens
        if asked.hardware is not None:
            training, steps = training_flops(asked.costs.training, N) * D, 0.0 if S is None else S
            more |= {"days": asked.hardware.days(training, steps), "devices": asked.hardware.busy(training, steps),
                     "money": asked.hardware.money(training)}
    return Plan(*found, laws=asked.axis[0] if asked.axis else None, **more, asked=asked)


def optimum(law, compute, batch="critical", convention="exact", flops_per_token=six_n, **conditions):
    """What `plan` finds for a compute, as a pure function for use inside `jit`, `vmap` and `grad`.

    Takes one law and a number or array of compute, in the caller's dtype; the others as in `plan`, single numbers,
    through which derivatives flow too: of an optimum where limits bind as well as of a smooth one.

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
    costs, conditions = terms(law, batch, convention, flops_per_token, **conditions)

    def one(compute):
        return tuple(solve(law, compute, costs, conditions, False)[1:])

    for _ in range(jnp.ndim(compute)):
        one = jax.vmap(one)
    return one(compute)
