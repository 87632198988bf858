"""Batch sizes that change along a run: what a policy spends, and the schedule of fewest steps for its tokens.

    print(schedules.compare(law, N=1e9, loss=2.8))    # at equal loss and tokens: B_crit(L(t)), a constant, the optimum
    schedule = schedules.optimal(law, N=1e9, loss=2.8, tokens=4e10)
    schedule.rounded(unit=2048, powers=True, most=4e6)

Eq 3.10 of Su et al. 2024 relates totals at a constant batch size. Where the batch size changes it holds for each small
piece of a run: dS = dS_min (1 + B_noise/B) and dD = B dS, with B_noise(L) = dE_min/dS_min. So batch sizes B(L) spend

    S = S_min + int B_noise/B dS_min    and    D = E_min + int B dS_min

until they reach a loss. D + price S is least where it is least at every L, at B = sqrt(price B_noise). Such a schedule,
B = c sqrt(B_noise), spends S = S_min + I/c and D = E_min + c I, I = int sqrt(B_noise) dS_min; so
(S - S_min)(D - E_min) = I^2, while a constant B has S_min E_min there, which is more (Cauchy-Schwarz).
"""

import dataclasses
import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.errors import InputError
from jaxscale.laws import KaplanNSB
from jaxscale.laws.base import as_floats
from jaxscale.planning.questions import positive
from jaxscale.prediction import outside
from jaxscale.uncertainty import ends

PANELS, NODES = 10, 24  # of the quadrature, each panel half as long as the next
ROWS = 128  # of a schedule
START = 1e-3  # share of S_min in the first row of a schedule, at one batch size
PRINTED = 12  # rows of a schedule


# The numerics: one law, N and loss, in the caller's dtype, no checks.


def along(law, N, loss, density):
    """The integral of a density over dS_min, from the start of a run until it reaches a loss.

    At S_min exp(-u), L - L_inf is exp(alpha_S u) times as large: Gauss-Legendre panels in u, up to where what is left
    of S_min rounds away. With the published constants the relative error is below 1e-13 in float64; in float32 it is
    some 1e-6 times L / (L - L_inf), and more where alpha_S / alpha_B is above 10.

    Args:
      law: `KaplanNSB` of numbers; N: parameters; loss: nats, above `law.minimum_loss(N)` (inf otherwise).
      density: a function of the losses [k] -> [k].

    Example:
      >>> from jaxscale import laws, schedules
      >>> law = laws.published["su2024-c4"]
      >>> tokens = schedules.along(law, 1e9, 2.8, lambda L: law.noise_scale(1e9, L))
      >>> print(f"{float(tokens / law.minimum_tokens(1e9, 2.8)):.4f}")  # dE_min = B_noise dS_min
      1.0000
    """
    dtype = jnp.result_type(*jax.tree.leaves((law, N, loss)), float)
    depth, share = _rule(dtype)
    least = law.minimum_loss(N)
    losses = least + jnp.maximum(loss - least, 0) * jnp.exp(law.alpha_S * depth)
    # Further up L^(-1 / alpha_B) rounds to zero, and B_noise / B_crit, which hardly changes there, would be lost.
    highest = jnp.exp(-law.alpha_B * (jnp.log(jnp.finfo(dtype).tiny) + 5))
    values = density(jnp.minimum(losses, highest))
    return law.minimum_steps(N, loss) * (share @ jnp.broadcast_to(values, losses.shape))


@functools.lru_cache
def _rule(dtype):
    """ln(S_min / S_min') [k], and the shares of S_min there; NumPy, in a dtype."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    edges = np.concatenate([[0.0], 2.0 ** np.arange(1 - PANELS, 1)]) * (3 - np.log(np.finfo(dtype).eps))
    middle, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    depth = (middle[:, None] + half[:, None] * x).ravel()
    return depth.astype(dtype), ((half[:, None] * w).ravel() * np.exp(-depth)).astype(dtype)


def spent(law, N, loss, batch):
    """Steps and tokens to a loss with batch sizes that follow the loss.

    Args:
      batch: a function of the loss -> tokens per step, both [k]: `law.critical_batch_size`, or one of your own.

    Example:
      >>> from jaxscale import laws, schedules
      >>> law = laws.published["su2024-c4"]
      >>> S, D = schedules.spent(law, 1e9, 2.8, law.critical_batch_size)
      >>> print(f"{float(S / law.minimum_steps(1e9, 2.8)):.3f}")  # twice S_min would be a constant batch of B_crit
      2.721
    """
    return (law.minimum_steps(N, loss) + along(law, N, loss, lambda L: law.noise_scale(N, L) / batch(L)),
            law.minimum_tokens(N, loss) + along(law, N, loss, batch))


def root_noise(law, N, loss):
    """I = int sqrt(B_noise) dS_min: B = c sqrt(B_noise), the optimum, spends S_min + I/c and E_min + c I."""
    return along(law, N, loss, lambda L: jnp.sqrt(law.noise_scale(N, L)))


# The policies side by side


class Policy(NamedTuple):
    """What a policy takes: steps, these over S_min, and its batch size when the loss is reached."""

    S: np.ndarray
    S_ratio: np.ndarray  # S / S_min
    B: np.ndarray  # tokens per step


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Three policies that reach one loss with the same tokens: NumPy float64 numbers, or arrays [laws].

    `critical` is B(t) = B_crit(L(t)), whose tokens D the others are given too; `constant` is one batch size; `optimal`
    is B(t) = c sqrt(B_noise(L(t))), which takes the fewest steps. NaN where a law cannot reach the loss.
    """

    N: float
    loss: float
    S_min: np.ndarray  # steps
    E_min: np.ndarray  # tokens
    D: np.ndarray  # tokens
    D_ratio: np.ndarray  # D / E_min
    critical: Policy
    constant: Policy
    optimal: Policy
    c: np.ndarray  # sqrt(tokens)
    laws: int | None = None  # length of the axis

    def interval(self, level=0.8):
        """The lower and the upper ends, as two comparisons: percentiles over the laws, each quantity by itself.

        Raises:
          InputError: the comparison is of one law.
        """
        if self.laws is None:
            raise InputError("an interval needs a comparison of many laws, and this is of one: compare a bootstrap or "
                             "a sample, as in compare(fit.sample(1000), N, loss).")
        lost = int(np.sum(np.isnan(self.S_min)))
        if lost:
            warnings.warn(f"{lost} of {self.laws} laws cannot reach this loss: the interval leaves them out.",
                          stacklevel=2)
        return tuple(self._reduced(lambda x, at=at: np.nanquantile(x, at)) for at in ends(level))

    def _reduced(self, statistic):
        values = {name: value for name, value in vars(self).items() if name not in ("N", "loss", "laws")}
        return Comparison(self.N, self.loss, **jax.tree.map(statistic, values))

    def __str__(self):
        many = self.laws is not None
        parts = (self._reduced(np.nanmedian), *self.interval(0.8)) if many else (self,)

        def cell(form, values):
            one, *two = map(form.format, values)
            return f"{one} ({' .. '.join(two)})" if two else one

        title = (f"N = {self.N:.4g}, loss {self.loss:.4f}: D = {cell('{:.4g}', (part.D for part in parts))} tokens, "
                 f"{cell('{:.3f}', (part.D_ratio for part in parts))} E_min")
        table = [["batch size", "steps", "S / S_min", "B at the end"]]
        for name, words in (("critical", "B_crit(L(t))"), ("constant", "constant"), ("optimal", "c sqrt(B_noise)")):
            columns = zip(*(getattr(part, name) for part in parts), strict=True)
            table.append([words, *map(cell, ("{:.4g}", "{:.3f}", "{:.4g}"), columns)])
        lines = [title, *_aligned(table), f"c = {cell('{:.4g}', (part.c for part in parts))} sqrt(tokens)"]
        return "\n".join([*lines, f"medians and 80% intervals over {self.laws} laws"] if many else lines)


def _aligned(table):
    """Rows of words as lines, the first column to the left, the others to the right."""
    first, *widths = (max(map(len, column)) for column in zip(*table, strict=True))
    return [row[0].ljust(first) + "".join("  " + cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True))
            for row in table]


def compare(law_or_fit, N, loss):
    """A batch that follows B_crit, a constant batch, and the optimal schedule, at equal loss and equal tokens.

    Args:
      law_or_fit: a `KaplanNSB`, its constants numbers or arrays [laws]; a Fit, or a Bootstrap, of it.
      N: parameters. loss: nats per token, to be reached by all three.

    Returns:
      A Comparison; with an axis of laws for many of them: `compare(fit.sample(1000), N, loss).interval(0.8)`.

    Raises:
      InputError: a bad number, another law, or a loss out of reach.

    Example:
      >>> from jaxscale import laws, schedules
      >>> print(schedules.compare(laws.published["su2024-c4"], N=1e9, loss=2.7))
      N = 1e+09, loss 2.7000: D = 5.448e+10 tokens, 1.703 E_min
      batch size           steps  S / S_min  B at the end
      B_crit(L(t))     6.104e+04      2.552     1.337e+06
      constant         5.792e+04      2.422     9.407e+05
      c sqrt(B_noise)  5.657e+04      2.365     1.083e+06
      c = 830.1 sqrt(tokens)
    """
    law, axis = _law(law_or_fit, "compare")
    N, loss = _numbers(N=N, loss=loss)
    with jax.enable_x64(True):
        laws = jax.tree.map(lambda x: np.broadcast_to(x, axis or (1,)), law)
        found = jax.tree.map(lambda x: np.asarray(x, np.float64).reshape(axis)[()], _compare(laws, N, loss))
        least = np.asarray(law.minimum_loss(N))
    reached = np.isfinite(found["S_min"])
    if not np.any(reached):
        raise _out_of_reach(N, loss, least)
    found = jax.tree.map(lambda x: np.where(reached, x, np.nan)[()], found)
    constant = found["constant"]
    if not axis:
        _say_where_beyond(law_or_fit, N=N, S=constant.S, B=constant.B)
    return Comparison(N, loss, **found, laws=axis[0] if axis else None)


@jax.jit
def _compare(laws, N, loss):
    def one(law):
        S_min, E_min = law.minimum_steps(N, loss), law.minimum_tokens(N, loss)
        S, D = spent(law, N, loss, law.critical_batch_size)
        root = root_noise(law, N, loss)
        over = D - E_min
        c, B = over / root, over / S_min
        steps = {"critical": (S, law.critical_batch_size(loss)), "constant": (S_min + E_min / B, B),
                 "optimal": (S_min + root / c, c * jnp.sqrt(law.noise_scale(N, loss)))}
        return {"S_min": S_min, "E_min": E_min, "D": D, "D_ratio": D / E_min, "c": c,
                **{name: Policy(S, S / S_min, B) for name, (S, B) in steps.items()}}

    return jax.vmap(one)(laws)


# What hardware allows


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """The batch sizes that hardware allows.

    Args:
      unit: tokens; batch sizes are multiples of it (a sequence, or one sequence on each device).
      powers: only unit times 1, 2, 4, 8, ...
      least, most: tokens per step, the smallest and the largest batch.

    Raises:
      InputError: a bad number, or no such batch size between the two.

    Example:
      >>> from jaxscale import schedules
      >>> schedules.BatchSizes(unit=2048, powers=True, most=1e5).nearest([1e3, 2e4, 1e6]).tolist()
      [2048.0, 16384.0, 65536.0]
    """

    unit: float = 1
    powers: bool = False
    least: float | None = None
    most: float | None = None

    def __post_init__(self):
        smallest, largest = self._ends()
        if smallest > largest:
            sizes = "a power of two times" if self.powers else "a multiple of"
            low, high = self.least or self.unit, self.most or np.inf
            raise InputError(f"the batch sizes must be {sizes} {self.unit:g} tokens, and there is none from {low:g} to "
                             f"{high:g}: move least= or most=.")

    def _ends(self):
        """The first and the last of the allowed, as the count of units or its power of two."""
        unit, = _numbers(unit=self.unit)
        low, = (unit,) if self.least is None else _numbers(least=self.least)
        high, = (np.inf,) if self.most is None else _numbers(most=self.most)
        scale = np.log2 if self.powers else np.asarray
        return np.ceil(scale(max(low / unit, 1)) - 1e-9), np.floor(scale(high / unit) + 1e-9)

    @property
    def first(self):
        """The smallest batch size, tokens."""
        return float(self.nearest(0.0))

    def nearest(self, B):
        """The allowed batch sizes nearest to B: where D + price S is least. NumPy, or JAX of a JAX array."""
        xp = jnp if isinstance(B, jax.Array) else np
        scale, back = (xp.log2, lambda power: xp.round(xp.exp2(power))) if self.powers else (xp.asarray, xp.asarray)
        smallest, largest = self._ends()
        wanted = xp.maximum(xp.asarray(B) / self.unit, 0.5)
        below = xp.floor(scale(wanted))
        nearest = below + (wanted > xp.sqrt(back(below) * back(below + 1)))  # where B + price B_noise / B is equal
        return self.unit * back(xp.clip(nearest, smallest, largest))


# The optimum as a table


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A batch size for each interval of a run: row i trains at B[i] until step S[i], token D[i] and loss[i].

    NumPy float64 arrays [rows]; `loss` is `law.trajectory(N, B, S)`, `aim` the loss that the ideal schedule ends at,
    and c that of B = c sqrt(B_noise).
    """

    law: KaplanNSB
    N: float
    aim: float
    c: float
    S: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    B: np.ndarray

    def rounded(self, unit=1, *, powers=False, least=None, most=None):
        """The schedule with batch sizes that hardware allows, and whole steps -> Schedule, a row for each batch size.

        What was trained at a batch size is trained at the nearest one allowed, so the run keeps its tokens, to half a
        step of each row; its steps and its loss follow.

        Args:
          unit, powers, least, most: as in `BatchSizes`.

        Raises:
          InputError: a bad number, or no such batch size between the two.
        """
        B = BatchSizes(unit, powers, least, most).nearest(self.B)
        last = np.append(B[1:] != B[:-1], True)
        S = np.round(np.cumsum(np.diff(self.D, prepend=0) / B))[last]
        S[-1] = max(S[-1], 1)
        taken = np.diff(S, prepend=0) > 0
        return _scheduled(self.law, self.N, self.aim, self.c, S[taken], B[last][taken])

    def to_frame(self):
        """A DataFrame with the columns S, D, loss and B."""
        from jaxscale.tables import frame

        return frame({name: getattr(self, name) for name in ("S", "D", "loss", "B")})

    def __str__(self):
        shown = np.unique(np.linspace(0, len(self.S) - 1, min(PRINTED, len(self.S))).round().astype(int))
        table = [["until step", "tokens", "loss", "batch size"]]
        for i in shown:
            table.append([f"{self.S[i]:.0f}", f"{self.D[i]:.4g}", f"{self.loss[i]:.4f}", f"{self.B[i]:.4g}"])
        table = [[row[0].rjust(10), *row[1:]] for row in table]
        title = f"N = {self.N:.4g}: loss {self.loss[-1]:.5f} (ideal schedule: {self.aim:.5f})"
        return "\n".join([title, *_aligned(table), *([] if len(shown) == len(self.S) else [f"({len(self.S)} rows)"])])


def optimal(law_or_fit, N, loss, *, tokens=None, steps=None, step_price=None, rows=ROWS):
    """The schedule B(t) = c sqrt(B_noise(L(t))) that reaches a loss at least cost -> `Schedule`.

    One of three fixes c: the fewest steps for `tokens`, the fewest tokens for `steps`, or the least D + step_price * S.

    Args:
      law_or_fit: a `KaplanNSB` of numbers, or a Fit of it. N: parameters. loss: nats per token.
      tokens: D, above E_min. steps: S, above S_min. step_price: the tokens that one step fewer is worth; c is its root.
      rows: of the table, at equal steps of ln S_min from S_min / 1,000 on.

    Raises:
      InputError: a bad number, another law, a loss out of reach, or a budget at or below its minimum.

    Example:
      >>> from jaxscale import laws, schedules
      >>> schedule = schedules.optimal(laws.published["su2024-c4"], N=1e9, loss=2.7, tokens=5e10)
      >>> print(schedule.rounded(unit=2**17, powers=True))
      N = 1e+09: loss 2.70771 (ideal schedule: 2.70000)
      until step     tokens    loss  batch size
             339  4.443e+07  6.7011   1.311e+05
            1513  3.522e+08  4.3661   2.621e+05
           17389  8.676e+09  3.0000   5.243e+05
           56799      5e+10  2.7077   1.049e+06
    """
    law, axis = _law(law_or_fit, "a schedule")
    if axis:
        raise InputError(f"a schedule is of one law, and this is {axis[0]} of them: take the fit's own, or one by one.")
    budgets = {"tokens": tokens, "steps": steps, "step_price": step_price}
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) != 1:
        raise InputError("a schedule needs one of tokens=, steps= and step_price=, not "
                         f"{' and '.join(given) or 'none'}.")
    (name, _), = given.items()
    N, loss, budget = _numbers(N=N, loss=loss, **given)
    if isinstance(rows, bool) or not isinstance(rows, (int, np.integer)) or rows < 2:
        raise InputError(f"rows must be a whole number from 2 on, not {rows!r}: 128 are enough.")
    with jax.enable_x64(True):
        depth = np.linspace(np.log(START), 0, rows)
        S_min, E_min, root = (np.asarray(x) for x in _rows(law, N, loss, depth))
        if not np.isfinite(S_min[-1]):
            raise _out_of_reach(N, loss, law.minimum_loss(N))
    least = {"tokens": E_min[-1], "steps": S_min[-1], "step_price": 0}[name]
    over = budget - least
    if over <= 0:
        raise InputError(f"this loss takes more than {least:.4g} {name} at any batch size, and {name}= is {budget:g}: "
                         "allow more, or a higher loss.")
    c = {"tokens": over / root[-1], "steps": root[-1] / over, "step_price": np.sqrt(budget)}[name]
    S, D = S_min + root / c, E_min + c * root
    B = np.diff(D, prepend=0) / np.diff(S, prepend=0)  # so that the rows add up to the tokens
    _say_where_beyond(law_or_fit, N=N, S=S[-1], B=B[-1])
    return _scheduled(law, N, loss, float(c), S, B)


@jax.jit
def _rows(law, N, loss, log_share):
    """S_min, E_min and root_noise [k] when shares of the S_min of a loss are done."""
    least = law.minimum_loss(N)
    losses = least + jnp.maximum(loss - least, 0) * jnp.exp(-law.alpha_S * log_share)
    return (law.minimum_steps(N, losses), law.minimum_tokens(N, losses),
            jax.vmap(lambda loss: root_noise(law, N, loss))(losses))


def _scheduled(law, N, aim, c, S, B):
    filled = (np.append(x, np.full(-len(x) % ROWS, x[-1])) for x in (B, S))  # by no steps: few shapes are compiled
    with jax.enable_x64(True):
        loss = np.asarray(law.trajectory(N, *filled))[:len(S)]
    return Schedule(law, N, aim, c, S, np.cumsum(B * np.diff(S, prepend=0)), loss, B)


# The front door's checks


def _law(law_or_fit, who):
    """The law in NumPy float64, and the shape () or (laws,) of its constants."""
    law = getattr(law_or_fit, "law", law_or_fit)
    if not isinstance(law, KaplanNSB):
        raise InputError(f"{who} needs a KaplanNSB, which knows the critical batch size, or a fit of it, not {law!r}.")
    law = as_floats(law)
    shapes = {np.shape(value) for value in jax.tree.leaves(law)} - {()}
    if len(shapes) > 1 or any(len(shape) > 1 for shape in shapes):
        raise InputError(f"many laws must share one leading axis, and the constants of this one have the shapes "
                         f"{sorted(shapes)}: flatten them.")
    if not shapes and not np.all(np.isfinite(jax.tree.leaves(law))):
        raise InputError(f"{who} needs finite constants, and this is {law}: correct them, or fit again.")
    return law, next(iter(shapes), ())


def _numbers(**values):
    units = {"N": "parameters", "loss": "nats", "steps": "steps"}
    return tuple(float(positive(value, name, units.get(name, "tokens"), one=True)) for name, value in values.items())


def _out_of_reach(N, loss, least):
    return InputError(f"loss={loss:g} is out of reach, {N:g} parameters have {float(np.min(least)):.6g} after endless "
                      "steps: ask for more than that, or take a larger N.")


def _say_where_beyond(law_or_fit, **columns):
    for sentence in outside(getattr(law_or_fit, "facts", {}).get("ranges", {}), columns):
        warnings.warn(f"{sentence}: this is an extrapolation.", stacklevel=3)
