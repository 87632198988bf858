"""How far the constants may be off: a sandwich clustered by run, and the bootstrap of whole runs.

The rows of one run share its seed, its data order and its drift, so the run is the unit: the sandwich sums scores
within runs, the bootstrap draws whole runs. Formulas that take rows as independent are wrong by factors of 3 to 8 on
real tables.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.errors import InputError
from jaxscale.laws.base import as_floats, from_unconstrained
from jaxscale.terms import scaling_constants, term_shares


def bandwidth(residuals, weights):
    """The width a corner's curvature is smoothed over: Silverman's rule, 0.9 min(sd, IQR / 1.34) n^(-1/5); [..., n]."""
    rows = np.sum(weights > 0, axis=-1)
    ranked = np.sort(np.where(weights > 0, residuals, np.inf), axis=-1)
    low, high = (_rank(ranked, share * (rows - 1)) for share in (0.25, 0.75))
    spread = np.minimum(np.sqrt(np.average(residuals**2, weights=weights, axis=-1)), (high - low) / 1.34)
    spread = np.where(spread > 0, spread, np.ptp(residuals, axis=-1))
    return np.maximum(0.9 * spread * rows**-0.2, np.finfo(float).tiny)


def _rank(ranked, place):
    """Sorted values [..., n] at fractional places [...]."""
    below = np.floor(place).astype(int)
    one, two = (np.take_along_axis(ranked, at[..., None], axis=-1)[..., 0] for at in (
        below, np.minimum(below + 1, ranked.shape[-1] - 1)))
    with np.errstate(invalid="ignore"):  # of a table with hardly a row
        return np.where(place > below, one + (place - below) * (two - one), one)


def smoothed_curvature(objective, residuals, weights):
    """rho'' of each row averaged over a normal kernel of the bandwidth; exact, 2, for squares. [..., n]"""
    if objective.name == "squares":
        curvature = np.full_like(residuals, 2.0)
    else:
        h = bandwidth(residuals, weights)[..., None]
        if objective.name == "lad":
            curvature = 2 * np.exp(-0.5 * (residuals / h) ** 2) / (h * math.sqrt(2 * math.pi))
        else:
            below, above = (np.asarray(_erf((residuals + end) / (h * math.sqrt(2)))) for end in (
                -objective.delta, objective.delta))
            curvature = 0.5 * (above - below)
    return curvature * np.where(residuals > 0, objective.overestimate, 1.0)


_erf = jax.jit(jax.scipy.special.erf)


def slope(objective, residuals):
    """rho' of each row."""
    side = np.where(residuals > 0, objective.overestimate, 1.0)
    if objective.name == "lad":
        return side * np.sign(residuals) * (np.abs(residuals) > 1e-12)
    return side * np.clip(residuals, -objective.delta, objective.delta) * objective.scale


def noise(objective, residuals, weights):
    """phi = mean(rho'^2) / mean(rho''): the objective's unit of information, 2 sigma^2 for squares; of [..., n]."""
    return (np.average(slope(objective, residuals) ** 2, weights=weights, axis=-1)
            / np.average(smoothed_curvature(objective, residuals, weights), weights=weights, axis=-1))


def clustered_sandwich(objective, residuals, jacobian, bend, weights, run, prior, inner, jackknife=False):
    """Covariances [fits, q, q] of the free coordinates: A^-1 B A^-1, B the sum over runs of the square of its score.

    Liang & Zeger 1986, with the small-sample factor G/(G-1) (n-1)/(n-q) for G runs and n rows. With `jackknife` each
    run's A^-1 score is (A - A_g)^-1 score, which is how far leaving the run out moves the fit, to first order, and the
    factor (G-1)/G: residuals are small where a run decides the fit alone, and with few runs the first is too sure
    (MacKinnon, Nielsen & Webb 2023, CV3; linearised as in their 2024 paper on binary responses). `bend` [fits, q, q] is
    the part of A from the curvature of the residuals; `prior` [fits, q, q], in units of the objective, adds to A, and
    to B as information of its own. Coordinates that are not `inner` [fits, q], at a bound, have no variance. NaN where
    a constant changes nothing.
    """
    fits, n, q = jacobian.shape
    rows, free = np.sum(weights > 0, axis=-1), np.sum(inner, axis=-1)
    both = inner[:, :, None] & inner[:, None, :]
    at_bound = np.eye(q) * ~inner[:, :, None]
    jacobian = jacobian * inner[:, None, :]
    curvature = weights * smoothed_curvature(objective, residuals, weights)
    gauss_newton = np.swapaxes(jacobian * curvature[..., None], 1, 2) @ jacobian + at_bound
    size = np.sqrt(np.diagonal(gauss_newton, axis1=1, axis2=2))
    able = np.all((size > 1e-100) & np.isfinite(size), axis=-1) & np.all(np.isfinite(bend) | ~both, axis=(1, 2))
    size = np.where(able[:, None], size, 1.0)
    A = gauss_newton + np.where(both, bend, 0.0)
    lowest = np.linalg.eigvalsh(np.where(able[:, None, None], A, np.eye(q)) / _outer(size)).min(axis=-1)
    A = np.where((lowest < 1e-12)[:, None, None], gauss_newton, A)
    scores = np.zeros((fits, int(run.max()) + 1, q))
    np.add.at(scores, (np.arange(fits)[:, None], run), jacobian * (weights * slope(objective, residuals))[..., None])
    runs = np.sum(np.any(scores != 0, axis=2), axis=1)
    small = runs / np.maximum(runs - 1, 1) * (rows - 1) / np.maximum(rows - free, 1)
    prior = np.where(both, prior, 0.0)
    A = A + prior
    if jackknife:
        whole = np.where(able[:, None, None], A, 0.0) + 1e-13 * np.eye(q) * size[..., None] ** 2
        scores = _without_each(whole, scores, jacobian * np.sqrt(curvature)[..., None], run, size)
        small = (runs - 1) / runs
    B = np.swapaxes(scores, 1, 2) @ scores * small[:, None, None]
    if np.any(prior):
        B = B + prior * noise(objective, residuals, weights)[:, None, None]
    spread = _outer(np.sqrt(np.where(able[:, None], np.diagonal(A, axis1=1, axis2=2), 1.0)))
    inverse = np.linalg.pinv(np.where(able[:, None, None], A / spread, np.eye(q)), hermitian=True) / spread
    return np.where(able[:, None, None], np.where(both, inverse @ B @ inverse, 0.0), np.nan)


def _without_each(A, scores, jacobian, run, size):
    """Scores [fits, G, q] as A (A - A_g)^-1 score, A_g [q, q] what the rows of run g, jacobian [fits, n, q], add to A.

    Where the others do not know a direction, 1e-6 of A is left of it.
    """
    fits, _, q = jacobian.shape
    own = np.zeros((*scores.shape, q))
    np.add.at(own, (np.arange(fits)[:, None], run), jacobian[..., :, None] * jacobian[..., None, :])
    root = np.linalg.cholesky(A / _outer(size)) * size[..., None]
    inverse = np.linalg.inv(root)[:, None]
    left, vectors = np.linalg.eigh(np.eye(q) - inverse @ own @ np.swapaxes(inverse, -1, -2))
    white = np.swapaxes(vectors, -1, -2) @ (inverse @ scores[..., None]) / np.maximum(left, 1e-6)[..., None]
    return (root[:, None] @ vectors @ white)[..., 0]


def _outer(x):
    return x[:, :, None] * x[:, None, :]


MANY = 30  # runs from which on a normal, and multinomial resampling, will do


def student(level, degrees):
    """The quantile of a central interval, in standard errors: Student's t, the normal for infinite degrees."""
    from scipy.special import stdtrit

    return float(-stdtrit(degrees, ends(level)[0]))


def degrees_of(runs, rows, free):
    """Of freedom, of the errors of a fit of `free` constants: below 30 runs one less than those, as simulations of
    regressions with few clusters advise (Cameron & Miller 2015, section VI), and no more than rows less constants.
    """
    return max(min(runs - 1, rows - free), 1) if 2 <= runs < MANY else math.inf


def resampled_counts(runs, draws, seed):
    """How often each run counts in each draw [draws, runs]: multinomial from 30 runs on, Dirichlet below.

    With few runs a multinomial draw can leave a law without the sizes that identify it; the Bayesian bootstrap
    (Rubin 1981) keeps every run at a positive weight.
    """
    rng = np.random.default_rng(seed)
    if runs >= MANY:
        return rng.multinomial(runs, np.full(runs, 1 / runs), draws).astype(np.float64)
    return rng.dirichlet(np.ones(runs), draws) * runs


@dataclasses.dataclass(frozen=True, eq=False)
class Bootstrap:
    """Laws fitted to tables in which whole runs were resampled.

    `law` carries the draws on its leading axis (those that failed left out); `failed` is their share; `scheme` says
    how runs were drawn; `confirmed` is the share of draws whose best end was reached from two starts or more.
    """

    law: object
    failed: float
    scheme: str
    confirmed: float = math.nan

    def __repr__(self):
        return f"Bootstrap of {type(self.law).__name__}: {self.scheme}, {self.failed:.1%} failed"

    @property
    def standard_errors(self):
        """A law of the same class: the standard deviation of each constant over the draws."""
        return self._reduce(lambda draws: (draws - draws[0]).std(axis=0, ddof=1))  # exactly 0 for a held one

    def interval(self, level=0.95):
        """The laws of lower and of upper ends of each constant's central percentile interval."""
        return tuple(self._reduce(lambda draws, at=at: np.quantile(draws, at, axis=0)) for at in ends(level))

    def predict(self, **inputs):
        """The output of each draw's law at the given inputs [draws, ...], NumPy float64.

        Any inputs that give the law's own will do, as in `Fit.predict`. Plans take a bootstrap as they are.

        Example:
          >>> fit.bootstrap(1000).predict(N=70e9, D=[1e12, 2e12]).shape  # doctest: +SKIP
          (1000, 2)
        """
        from jaxscale.prediction import predict_each

        return predict_each(self.law, inputs)

    def predict_interval(self, level=0.95, **inputs):
        """Lower and upper ends of the central percentile interval of `predict`, in the shape of the inputs."""
        return tuple(np.quantile(self.predict(**inputs), ends(level), axis=0))

    def interval_of(self, function, level=0.95):
        """Lower and upper ends of the percentile interval of anything the laws say, as `Fit.interval_of`."""
        return interval_of(self.law, function, level)

    @property
    def covariance(self):
        """Covariance of the constants as a dict of dicts, positive ones on the log scale."""
        draws = unconstrained_draws(self.law)
        return as_dict(self.law.constants, np.atleast_2d(np.cov(draws - draws[0], rowvar=False)))

    def _reduce(self, statistic):
        return as_floats(type(self.law)(**{name: statistic(getattr(self.law, name)) for name in self.law.constants}))


def ends(level):
    """The quantiles at the two ends of a central interval. Raises InputError for a level that is no share."""
    if not 0 < level < 1:
        raise InputError(f"the level of an interval must be between 0 and 1, not {level!r}: 0.95 for 95%.")
    return (1 - level) / 2, (1 + level) / 2


def each(laws, function):
    """A function of a law, in JAX, for each of a batch of laws: NumPy float64 [laws, ...]. Raises InputError."""
    with jax.enable_x64(True):
        try:
            found = jax.vmap(function)(laws)
        except (AttributeError, TypeError, ValueError, jax.errors.JAXTypeError) as error:
            raise InputError(f"what is asked must be a function of one law, in JAX, but it fails on "
                             f"{type(laws).__name__} ({str(error).splitlines()[0]}).") from None
    if isinstance(found, tuple | list | dict):
        raise InputError(f"what is asked must give one number or array, not a {type(found).__name__} of "
                         f"{len(found)}: pick one of them.")
    return np.asarray(found, np.float64)


def interval_of(laws, function, level):
    """Lower and upper ends of the central interval of a function of a law over a batch of laws, infinity a number."""
    found = np.quantile(np.clip(each(laws, function), -1e300, 1e300), ends(level), axis=0)
    return tuple(np.where(np.abs(found) > 1e200, np.copysign(np.inf, found), found))


def unconstrained_draws(law):
    """The constants of a batch of laws [draws, p], positive ones as logs; -inf (a constant held at 0) as 0."""
    with np.errstate(divide="ignore"):
        columns = [np.log(getattr(law, name)) if about.positive else getattr(law, name)
                   for name, about in law.constants.items()]
    return np.nan_to_num(np.stack(columns, axis=-1), neginf=0.0)


def as_dict(names, matrix):
    """A matrix as a dict of dicts by name."""
    return {a: {b: float(matrix[i, j]) for j, b in enumerate(names)} for i, a in enumerate(names)}


def as_matrix(table):
    """The dict of dicts back as a matrix."""
    return np.array([list(row.values()) for row in table.values()])


# ---- laws drawn from a covariance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Normal:
    """Laws spread about a fit's: `law(white)` has constants sizes + factor @ white, white [k] of unit variance.

    A constant that scales a term goes by the term's size amid the table. The laws that fit a table lie along a ridge
    that is straight in these sizes, whose sum the table knows, but bends in ln A and ln alpha: drawn in those, most
    would fit no row. A size that is drawn below a thousandth of the fit's is set to that.
    """

    sizes: np.ndarray  # [p]: unconstrained constants, the centred ones as their terms' shares of the output
    factor: np.ndarray  # [p, k]
    held: tuple  # of constants: the value of one that has no variance, NaN for the others
    centre: tuple  # the inputs [1] amid the table, and the output there [1]
    Law: type = dataclasses.field(metadata={"static": True})
    centred: tuple = dataclasses.field(metadata={"static": True})

    @classmethod
    def about(cls, law, covariance, ranges):
        """From a covariance [p, p] of the unconstrained constants and the ranges (input -> ends) of a table."""
        Law = type(law)
        moving = np.diag(covariance) > 0
        scaling = scaling_constants(Law, frozenset())
        centred = tuple(name for name, moves in zip(Law.constants, moving, strict=True)
                        if moves and name in scaling and Law.constants[name].positive)
        with jax.enable_x64(True), np.errstate(divide="ignore"):
            values = np.array([np.log(getattr(law, name)) if about.positive else getattr(law, name)
                               for name, about in Law.constants.items()])
            plain = (*Law.ratios, *Law.signed)
            inputs = tuple(np.mean(ranges[name], keepdims=True) if name in plain else
                           np.sqrt([np.prod(ranges[name])]) for name in Law.inputs)
            centre = inputs, np.broadcast_to(np.asarray(law(*inputs)), 1)
            slope = np.asarray(_slope(Law, centred, centre, values))
            if not np.all(np.isfinite(slope[:, moving])):
                centred, slope = (), np.eye(len(values))
            slope = np.where(moving, slope, np.eye(len(values)))
            spreads, vectors = np.linalg.eigh(slope @ covariance @ slope.T)
            held = tuple(math.nan if moves else float(getattr(law, name))
                         for name, moves in zip(Law.constants, moving, strict=True))
            return cls(np.asarray(_sizes(Law, centred, centre, values)),
                       vectors * np.sqrt(np.maximum(spreads, 0.0)), held, centre, Law, centred)

    def law(self, white):
        """The law at white [k]; pure, in the caller's dtype."""
        sizes, moved = self.sizes, jnp.asarray(self.sizes + self.factor @ white)
        if self.centred:
            at, share, power = term_shares(self.Law, self.centred, self.centre, moved)
            moved = moved.at[at].set((jnp.log(jnp.maximum(moved[at], 1e-3 * sizes[at])) - share) / power)
        drawn = from_unconstrained(self.Law, moved)
        return self.Law(**{name: jnp.where(jnp.isnan(held), jnp.clip(getattr(drawn, name), about.lower, about.upper),
                                           held)
                           for (name, about), held in zip(self.Law.constants.items(), self.held, strict=True)})


def draw(law, covariance, ranges, draws, seed, degrees=math.inf):
    """Laws from a normal with a covariance [p, p] of the unconstrained constants, in the coordinates of `Normal`.

    degrees: of freedom of Student's t in place of the normal, for a covariance that few runs tell.
    """
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((draws, len(law.constants)))
    if degrees < math.inf:
        white = white / np.sqrt(rng.chisquare(degrees, (draws, 1)) / degrees)
    with jax.enable_x64(True):
        return as_floats(_laws(Normal.about(law, covariance, ranges), white))


_laws = jax.jit(jax.vmap(Normal.law, in_axes=(None, 0)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sizes(Law, centred, centre, theta):
    """Unconstrained constants [p], the centred ones as their terms' shares of the output."""
    if not centred:
        return theta
    at, share, power = term_shares(Law, centred, centre, theta)
    return jnp.asarray(theta).at[at].set(jnp.exp(power * theta[at] + share))


_slope = jax.jit(jax.jacfwd(_sizes, argnums=3), static_argnums=(0, 1))
