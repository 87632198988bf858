"""The mix of training data of least loss, from runs with several mixes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.errors import InputError, nearest
from jaxscale.groups import GroupFits
from jaxscale.laws import mixing
from jaxscale.prediction import outside
from jaxscale.recipes.data_sources import fit_sources
from jaxscale.uncertainty import ends

# Of the barrier: its weight falls from the first to the last by a constant factor, in nats; some Newton steps at each.
FIRST, LAST, STAGES, STEPS = 1.0, 1e-12, 25, 8


@dataclasses.dataclass(frozen=True, eq=False)
class Mix:
    """The ratios of the domains at which the weighted sum of the evaluation sets' losses is least.

    Attributes:
        domains: [m]; ratios: [m], of sum 1.
        loss: the weighted sum there, nats. losses: evaluation set -> its loss there.
        weights: evaluation set -> its weight.
        bound: nats by which the loss may be above the least one: the duality gap.
        fits: `GroupFits`, one law an evaluation set.
        drawn: [draws, m] ratios of tables in which whole runs were resampled, the same ones for every set.
        notes: what a reader should know.
    """

    domains: tuple[str, ...]
    ratios: np.ndarray
    loss: float
    losses: dict
    weights: dict
    bound: float
    fits: GroupFits
    drawn: np.ndarray
    notes: tuple[str, ...]

    def interval(self, level=0.8):
        """[m], [m]: the lower and the upper ends of each ratio by itself."""
        return tuple(np.quantile(self.drawn, ends(level), axis=0))

    def __str__(self):
        low, high = self.interval(0.8)
        wide = max(6, *map(len, (*self.domains, *self.losses)))
        lines = [f"the mix of least loss by {self.fits.Law.__name__}; 80% intervals from {len(self.drawn)} tables of "
                 "resampled runs", f"{'domain':{wide}}{'ratio':>9}   80% interval"]
        lines += [f"{name:{wide}}{self.ratios[i]:9.3f}   {low[i]:.3f} .. {high[i]:.3f}"
                  for i, name in enumerate(self.domains)]
        lines += [f"loss {self.loss:.4f}, at most {self.bound:.1g} above the law's least; of "
                  + ", ".join(f"{name} {loss:.4f} (weight {self.weights[name]:.3g})"
                              for name, loss in self.losses.items())]
        return "\n".join([*lines, *self.notes])


def optimal_mix(table, domains, *, by=None, losses=None, weights=None, law=mixing, at=None, bounds=None, draws=500,
                seed=0, **question):
    """The mix of training data of least loss, from runs with several mixes -> `Mix`.

    One law an evaluation set (`laws.mixing`: Ye et al. 2024, at one size and token count; `laws.scaled_mixing`: Shukor
    et al. 2025, runs of several), and the ratios at which the weighted sum of their losses is least. Both laws are
    convex in the ratios, so there is one least loss, and the duality gap says how near it is. The intervals hold what
    the runs do not know of the laws, as whole runs are resampled, the same for every set; not an error in the laws'
    form, nor what more epochs of a small domain do. Ye's law says nothing of other sizes. Tested on simulated tables
    alone, as no table of real runs with several mixes is at hand.

    Args:
        table: a table of runs, as `read_runs` takes, with the ratios in columns r_<domain>, from 0 to 1, of sum 1.
        domains: their names, in the order that the ratios come back.
        by, losses: the evaluation sets, as in `sources`; without either the column loss is the only one.
        weights: evaluation set -> its weight in the sum; all alike, of sum 1, if not given.
        law: `laws.mixing` or `laws.scaled_mixing`.
        at: N and D, where the law reads them; the largest in the table if not given. The mix does not depend on them.
        bounds: domain -> (least, most) ratio, {"books": (0.0, 0.1)}.
        draws, seed: of the resampling.
        question: what `fit` takes.

    Raises:
        InputError: for a table or a question that cannot be used, and bounds that leave no mix.

    >>> import numpy as np, jaxscale as jsc
    >>> Mixing = jsc.laws.mixing(("web", "code", "books"))
    >>> prose, tests = Mixing(c=2, k=1, t_code=1, t_books=-1), Mixing(c=1, k=1, t_code=-2, t_books=1)
    >>> ratios = np.random.default_rng(0).dirichlet([1, 1, 1], 30).T  # 30 runs of one size, each with its own mix
    >>> table = dict(zip(Mixing.inputs, ratios)) | {"prose": prose(*ratios), "tests": tests(*ratios)}
    >>> mix = jsc.recipes.optimal_mix(table, ("web", "code", "books"), losses={"prose": "prose", "tests": "tests"},
    ...                               draws=20)
    >>> print(mix.ratios.round(3))
    [0.    0.481 0.519]
    """
    domains = tuple(domains)
    Law = law(domains)
    losses = {"loss": "loss"} if by is None and losses is None else losses
    names, fits, drawn, notes = fit_sources(table, Law, by, losses, draws, seed, question)
    weights = _weights(names, weights)
    task = fits.fits[0].task
    fixed = {name: float(task.runs.columns[name].max()) for name in Law.inputs if name not in Law.ratios}
    for name, value in (at or {}).items():
        if name not in fixed:
            raise InputError(f"at= names {name!r}, which {Law.__name__} does not read beside the ratios"
                             f"{nearest(name, fixed) or ': leave it out.'}")
        fixed[name] = float(value)
    share = np.array([weights[name] for name in names])
    ratios, bound = best_ratios([fit.law for fit in fits.fits], share, at=fixed, bounds=bounds)
    many, _ = best_ratios(drawn, share, at=fixed, bounds=bounds)
    with jax.enable_x64(True):
        each = {name: float(fit.law(*fixed.values(), *ratios)) for name, fit in zip(names, fits.fits, strict=True)}
    columns = fixed | dict(zip(Law.ratios, ratios, strict=True))
    far = (f"{sentence}: this is an extrapolation" for sentence in outside(fits.fits[0].facts["ranges"], columns))
    return Mix(domains, ratios, float(share @ list(each.values())), each, weights, float(bound), fits, many,
               (*far, *notes))


def best_ratios(laws, weights=None, *, at=None, bounds=None):
    """The ratios [.., m] at which the weighted sum of the losses of mixing laws is least, and a bound on its excess.

    Newton's method on f(r) - mu sum_j (log(r_j - least_j) + log(most_j - r_j)) in the plane of sum 1, for ever smaller
    mu; where f is convex, f(r) is above its least value by no more than the duality gap, the most that the linear model
    at r promises within the bounds.

    Args:
        laws: laws of one class, an evaluation set each, made by `laws.mixing` or `laws.scaled_mixing`; their constants
            numbers, or arrays [draws], draw by draw.
        weights: [s] of the laws in the sum, all alike if not given.
        at: the law's other inputs, N and D, where it reads them.
        bounds: domain -> (least, most) ratio.

    Returns:
        (ratios, bound): NumPy float64 [m] and a number in nats, or [draws, m] and [draws].

    >>> from jaxscale import laws
    >>> Mixing = laws.mixing(("web", "code"))
    >>> two = [Mixing(c=2.0, k=1.0, t_code=-2.0), Mixing(c=1.5, k=0.5, t_code=1.0)]
    >>> print(best_ratios(two)[0].round(4))  # exp(-2 r) = exp(r) / 4, r = log(4) / 3
    [0.5379 0.4621]
    """
    laws = list(laws)
    Law = type(laws[0])
    if not getattr(Law, "ratios", ()) or any(type(law) is not Law for law in laws):
        raise InputError("best_ratios wants laws of one class made by laws.mixing or laws.scaled_mixing, not "
                         f"{', '.join(sorted({type(law).__name__ for law in laws}))}: pass fit.law of each set.")
    fixed = {name: (at or {}).get(name) for name in Law.inputs if name not in Law.ratios}
    if None in fixed.values():
        raise InputError(f"{Law.__name__} reads {' and '.join(fixed)} beside the ratios: pass them, as in "
                         f"at={{'N': 1e9, 'D': 2e10}}.")
    share = np.full(len(laws), 1 / len(laws)) if weights is None else np.asarray(weights, np.float64)
    if share.shape != (len(laws),) or not np.all(np.isfinite(share) & (share >= 0)) or not share.any():
        raise InputError(f"weights must be {len(laws)} numbers >= 0, one a law and not all 0; they are {weights!r}.")
    least, most = _bounds(Law, bounds)
    shape = np.broadcast_shapes(*(np.shape(x) for law in laws for x in jax.tree.leaves(law)))
    with jax.enable_x64(True):
        stacked = jax.tree.map(lambda *x: np.stack(np.broadcast_arrays(*x, np.zeros(shape or 1))[:-1], axis=-1), *laws)
        ratios, slopes = map(np.asarray, _solve(stacked, share, tuple(map(float, fixed.values())), least, most))
    bound = np.array([_promised(*pair, least, most) for pair in zip(ratios, slopes, strict=True)])
    ratios = np.where(ratios - least < 1e-9, least, np.where(most - ratios < 1e-9, most, ratios))
    return (ratios, bound) if shape else (ratios[0], float(bound[0]))


def _weights(names, weights):
    if weights is None:
        return dict.fromkeys(names, 1 / len(names))
    for name in weights:
        if name not in names:
            raise InputError(f"weights= names the evaluation set {name!r}, the table has {', '.join(names)}"
                             f"{nearest(name, names) or '.'}")
    return {name: float(weights.get(name, 0.0)) for name in names}


def _bounds(Law, bounds):
    """Least and most [m] of each ratio."""
    pairs = {name: (0.0, 1.0) for name in Law.ratios}
    for domain, pair in (bounds or {}).items():
        if f"r_{domain}" not in pairs:
            known = [name.removeprefix("r_") for name in pairs]
            raise InputError(f"bounds= names the domain {domain!r}, the law has {', '.join(known)}"
                             f"{nearest(domain, known) or '.'}")
        pairs[f"r_{domain}"] = tuple(map(float, pair))
    least, most = np.array(list(pairs.values())).T
    if not (np.all((least >= 0) & (least < most) & (most <= 1)) and least.sum() < 1 < most.sum()):
        raise InputError(f"bounds= must leave every ratio room within 0 to 1, and a sum of 1 between them; the least "
                         f"sum to {least.sum():g} and the most to {most.sum():g}: widen them.")
    return least, most


def _promised(ratios, slope, least, most):
    """How far a linear model of this slope falls from the ratios, within the bounds: the duality gap."""
    lowest, left = least.copy(), 1 - least.sum()
    for i in np.argsort(slope, kind="stable"):
        taken = min(left, most[i] - least[i])
        lowest[i] += taken
        left -= taken
    return max(0.0, float(slope @ (ratios - lowest)))


@jax.jit
def _solve(laws, weights, fixed, least, most):
    """Ratios [draws, m] and the slopes of the loss there, for laws [draws, s]."""
    count = len(least)
    # The plane of sum 1: an orthonormal basis of what sums to 0 (Helmert's).
    rows = np.arange(1, count)[:, None]
    plane = (np.where(np.arange(count) < rows, 1.0, 0.0) - rows * np.eye(count)[1:]) / np.sqrt(rows * (rows + 1))

    def one(laws):
        def loss(r):
            return weights @ jax.vmap(lambda law: law(*fixed, *r))(laws)

        def barrier(r, mu):
            room = jnp.concatenate([r - least, most - r])
            inside = jnp.all(room > 0)
            value = loss(r) - mu * jnp.sum(jnp.log(jnp.where(inside, room, 1.0)))
            return jnp.where(inside & jnp.isfinite(value), value, jnp.inf)

        def newton(r, mu):
            slope = jax.grad(loss)(r) - mu / (r - least) + mu / (most - r)
            bend = jax.hessian(loss)(r) + jnp.diag(mu / (r - least) ** 2 + mu / (most - r) ** 2)
            move = -plane.T @ jnp.linalg.solve(plane @ bend @ plane.T, plane @ slope)
            reach = jnp.where(move < 0, (least - r) / jnp.where(move < 0, move, -1.0),
                              (most - r) / jnp.where(move > 0, move, 1e-300))
            steps = jnp.minimum(1.0, 0.99 * jnp.min(reach)) * jnp.append(0.5 ** jnp.arange(12), 0.0)
            tried = r + steps[:, None] * move
            return tried[jnp.argmin(jax.vmap(barrier, in_axes=(0, None))(tried, mu))]

        def stage(r, mu):
            return jax.lax.fori_loop(0, STEPS, lambda _, r: newton(r, mu), r), None

        start = least + (most - least) * (1 - jnp.sum(least)) / jnp.sum(most - least)
        r, _ = jax.lax.scan(stage, start, jnp.geomspace(FIRST, LAST, STAGES))
        return r, jax.grad(loss)(r)

    return jax.lax.map(one, laws, batch_size=64)
