"""L = E + A / N^alpha + B / D^beta in NumPy and SciPy: the judge of all fits of it, and the peers.

Constants are arrays [..., 5] in the order E, A, B, alpha, beta; theta is (a, b, e, alpha, beta), logs of A, B and E as
in Hoffmann et al. 2022. Peers take N, D, loss and weights [n] and starts theta [k, 5], and return the constants [k, 5]
that they end at and the objective [k] there. SciPy is imported inside, so that its absence is a row of the page.
"""

import itertools
import warnings

import numpy as np

DELTA = 1e-3  # the corner of Huber's function
HOFFMANN = np.array([6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083])  # theta, unrounded


def huber_sum(constants, N, D, loss, weights=1.0):
    """The judge: sum of weight * Huber(log residual) [...] at constants [..., 5], weights [..., n]."""
    E, A, B, alpha, beta = np.moveaxis(np.asarray(constants, np.float64)[..., None], -2, 0)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        fitted = E + np.exp(np.log(A) - alpha * np.log(N)) + np.exp(np.log(B) - beta * np.log(D))
        r = np.abs(np.log(fitted) - np.log(loss))
        inside = np.minimum(r, DELTA)
        return np.sum(weights * inside * (r - 0.5 * inside), axis=-1)


def constants_of(theta):
    a, b, e, alpha, beta = np.moveaxis(np.asarray(theta, np.float64), -1, 0)
    with np.errstate(over="ignore"):
        return np.stack([np.exp(e), np.exp(a), np.exp(b), alpha, beta], axis=-1)


def grid_starts():
    """The 4,500 starts of Hoffmann et al. 2022 and Besiroglu et al. 2024: theta [4500, 5]."""
    a = np.arange(0.0, 30.0, 5.0)
    e, exponents = np.arange(-1.0, 1.5, 0.5), np.arange(0.0, 2.5, 0.5)
    return np.array(list(itertools.product(a, a, e, exponents, exponents)))


def some(items, count, seed=0):
    """A random subset of the items, `count` at most, in their order."""
    return items[np.sort(np.random.default_rng(seed).choice(len(items), min(count, len(items)), replace=False))]


class Logs:
    """A table as logs, centred on request; `move` takes theta to its coordinates, `back` returns it."""

    def __init__(self, N, D, loss, weights, centred=True):
        self.x, self.y, self.z, self.weights = np.log(N), np.log(D), np.log(loss), weights
        self.centre = (self.x.mean(), self.y.mean()) if centred else (0.0, 0.0)
        self.x, self.y = self.x - self.centre[0], self.y - self.centre[1]

    def move(self, theta):
        return np.asarray(theta) - np.array([1, 0, 0, 0, 0]) * self.centre[0] * theta[3] - np.array(
            [0, 1, 0, 0, 0]) * self.centre[1] * theta[4]

    def back(self, theta):
        return np.asarray(theta) + np.array([1, 0, 0, 0, 0]) * self.centre[0] * theta[3] + np.array(
            [0, 1, 0, 0, 0]) * self.centre[1] * theta[4]

    def residuals(self, theta):
        """Log residuals [n] and the shares of the three terms [3, n]."""
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * self.x, b - beta * self.y, np.full_like(self.x, e)])
        top = terms.max(axis=0)
        shares = np.exp(terms - top)
        total = shares.sum(axis=0)
        return top + np.log(total) - self.z, shares / total

    def jacobian(self, theta):
        """[n, 5]."""
        first, second, third = self.residuals(theta)[1]
        return np.stack([first, second, third, -self.x * first, -self.y * second], axis=1)

    def value(self, theta, scale=1.0):
        r = np.abs(self.residuals(theta)[0])
        inside = np.minimum(r, DELTA)
        return scale * np.sum(self.weights * inside * (r - 0.5 * inside))

    def value_and_gradient(self, theta, scale=1.0):
        r, (first, second, third) = self.residuals(theta)
        slope = scale * self.weights * np.clip(r, -DELTA, DELTA)
        inside = np.minimum(np.abs(r), DELTA)
        one, two = slope * first, slope * second
        return (scale * np.sum(self.weights * inside * (np.abs(r) - 0.5 * inside)),
                np.array([one.sum(), two.sum(), slope @ third, -one @ self.x, -two @ self.y]))


def lbfgsb(N, D, loss, weights, starts, tight=True, gradient=True):
    """SciPy's L-BFGS-B. `tight`: centred inputs, the objective times 1e3 (its tolerance is absolute below 1), ftol
    1e-12; otherwise all at its defaults. `gradient`: analytic, else by differences as the published protocol has it.
    """
    from scipy.optimize import minimize

    logs, scale = Logs(N, D, loss, weights, centred=tight), 1e3 if tight else 1.0
    options = {"ftol": 1e-12, "gtol": 1e-9, "maxiter": 500} if tight else {}
    ends = [minimize(logs.value_and_gradient if gradient else logs.value, logs.move(start), (scale,), jac=gradient,
                     method="L-BFGS-B", options=options) for start in starts]
    return constants_of([logs.back(end.x) for end in ends]), np.array([end.fun for end in ends]) / scale


def bfgs(N, D, loss, weights, starts):
    """SciPy's BFGS at its defaults with the exact gradient: the protocol of Besiroglu et al. 2024."""
    from scipy.optimize import minimize

    logs = Logs(N, D, loss, weights, centred=False)
    ends = [minimize(logs.value_and_gradient, start, jac=True, method="BFGS") for start in starts]
    return constants_of([end.x for end in ends]), np.array([end.fun for end in ends])


def exponent_grid(k):
    """All pairs [k^2, 2] of exponents between 0.05 and 1.2."""
    return np.array(list(itertools.product(np.geomspace(0.05, 1.2, k), repeat=2)))


def exponent_points(power):
    """2^power well spread pairs of exponents between 0.05 and 1.2."""
    from scipy.stats import qmc

    return 0.05 * 24 ** qmc.Sobol(2, seed=0).random_base2(power)


def projected_starts(N, D, loss, weights, exponents, top):
    """Variable projection: E, A, B at each pair of exponents by nnls of relative residuals -> the best theta."""
    from scipy.optimize import nnls

    logs, root = Logs(N, D, loss, weights), np.sqrt(weights)
    powers = {exponent: np.exp(-exponent * logs.x) for exponent in set(exponents[:, 0])}
    others = {exponent: np.exp(-exponent * logs.y) for exponent in set(exponents[:, 1])}
    by_loss, found = root / loss, []
    for alpha, beta in exponents:
        columns = np.stack([powers[alpha], others[beta], np.ones_like(loss)], axis=1) * by_loss[:, None]
        amplitudes, left = nnls(columns, root)
        found.append((left, [*np.log(np.maximum(amplitudes, 1e-4)), alpha, beta]))
    found.sort(key=lambda pair: pair[0])
    return np.array([logs.back(theta) for _, theta in found[:top]])


def projection(N, D, loss, weights, exponents, top):
    """Variable projection on a grid of exponents, then L-BFGS-B from the best `top`: jaxscale's strategy in SciPy."""
    return lbfgsb(N, D, loss, weights, projected_starts(N, D, loss, weights, exponents, top))


def least_squares(N, D, loss, weights, starts):
    """SciPy's least_squares with its Huber loss and the exact Jacobian; for weights of 1."""
    from scipy.optimize import least_squares as solve

    logs = Logs(N, D, loss, weights)
    ends = [solve(lambda theta: logs.residuals(theta)[0], logs.move(start), logs.jacobian, x_scale="jac", loss="huber",
                  f_scale=DELTA, ftol=1e-14, xtol=1e-14, gtol=1e-14, max_nfev=1000) for start in starts]
    return constants_of([logs.back(end.x) for end in ends]), np.array([end.cost for end in ends])


def curve_fit(N, D, loss, weights, starts):
    """SciPy's curve_fit as one writes it: the constants themselves, positive, differences, Huber loss; weights of 1."""
    from scipy.optimize import OptimizeWarning
    from scipy.optimize import curve_fit as solve

    def log_loss(inputs, E, A, B, alpha, beta):
        return np.log(E + A * inputs[0] ** -alpha + B * inputs[1] ** -beta)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not asked for
        ends = np.array([solve(log_loss, (N, D), np.log(loss), start, method="trf", bounds=(0, np.inf), x_scale="jac",
                               loss="huber", f_scale=DELTA, max_nfev=2000)[0] for start in constants_of(starts)])
    return ends, huber_sum(ends, N, D, loss, weights)
