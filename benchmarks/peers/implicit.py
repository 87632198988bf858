"""L = (N_c/N)^alpha_N + (S_c/S)^alpha_S (1 + B_star / (B L^(1/alpha_B)))^alpha_S in NumPy and SciPy (Su et al. 2024).

Constants are (N_c, alpha_N, S_c, alpha_S, B_star, alpha_B). With v = ln L, n, k and q the logs of (N_c/N)^alpha_N,
(S_c/S)^alpha_S and B_star/B, v is the root of F(v) = logaddexp(n, k + alpha_S softplus(q - v / alpha_B)) - v, which is
convex and falls with a slope of at most -1.
"""

import numpy as np


def _logs(constants, N, S, B):
    N_c, alpha_N, S_c, alpha_S, B_star, alpha_B = constants
    return (alpha_N * (np.log(N_c) - np.log(N)), alpha_S * (np.log(S_c) - np.log(S)), np.log(B_star) - np.log(B),
            alpha_S, alpha_B)


def _softplus(z):
    """log(1 + e^z); NumPy's own log1p and logaddexp are many times slower than its vectorised exp and log."""
    return np.maximum(z, 0) + np.log(1 + np.exp(-np.abs(z)))


def _newton(n, k, q, alpha_S, alpha_B, steps):
    """Roots v, from the largest of the right side's asymptotes, a lower bound; and the parts of F's derivatives."""
    v = np.maximum(np.maximum(n, k), (k + alpha_S * q) / (1 + alpha_S / alpha_B))
    for _ in range(steps):
        e = np.exp(q - v / alpha_B)
        soft = np.log(1 + e)
        ratio = np.exp(n - k - alpha_S * soft)  # of the first term to the second
        share = 1 / (1 + ratio)
        rate = share * (alpha_S - alpha_S / (1 + e))
        v = v + (k + alpha_S * soft + np.log(1 + ratio) - v) / (1 + rate / alpha_B)
    return v, soft, share, rate


def newton(constants, N, S, B, steps=5, block=16384):
    """The best that NumPy does: 5 Newton steps in ln L from the lower bound, in blocks that fit the cache -> L [n]."""
    L = np.empty_like(N)
    for i in range(0, len(N), block):
        at = slice(i, i + block)
        np.exp(_newton(*_logs(constants, N[at], S[at], B[at]), steps)[0], out=L[at])
    return L


def reference(constants, N, S, B):
    """L [n] in long double, 8 Newton steps: 64 bits of mantissa on x86."""
    wide = [np.asarray(x, np.longdouble) for x in (N, S, B)]
    return newton([np.longdouble(x) for x in constants], *wide, steps=8)


def columns(constants, N, S, B, steps=6, block=16384):
    """L [n] and its derivatives in the logs of the six constants [n, 6], by the implicit function theorem.

    They are taken where the last step began, so there is one step more than for L alone.
    """
    L, slopes = np.empty_like(N), np.empty((len(N), 6), N.dtype)
    for i in range(0, len(N), block):
        at = slice(i, i + block)
        n, k, q, alpha_S, alpha_B = _logs(constants, N[at], S[at], B[at])
        v, soft, share, rate = _newton(n, k, q, alpha_S, alpha_B, steps)
        np.exp(v, out=L[at])
        by_n, size = 1 - share, L[at] / (1 + rate / alpha_B)
        for j, slope in enumerate((by_n * constants[1], by_n * n, share * alpha_S, share * (k + alpha_S * soft), rate,
                                   rate * v / alpha_B)):
            np.multiply(size, slope, out=slopes[at, j])
    return L, slopes


def bisection(constants, N, S, B, steps=64):
    """Vectorised bisection in L between the loss after endless steps and the right side there -> L [n]."""
    N_c, alpha_N, S_c, alpha_S, B_star, alpha_B = constants
    known, slow = (N_c / N) ** alpha_N, (S_c / S) ** alpha_S

    def right(L):
        return known + slow * (1 + B_star / (B * L ** (1 / alpha_B))) ** alpha_S

    low, high = known, right(known)
    for _ in range(steps):
        L = 0.5 * (low + high)
        above = right(L) > L
        low, high = np.where(above, L, low), np.where(above, high, L)
    return 0.5 * (low + high)


def _excess(v, n, k, q, alpha_S, alpha_B):
    return n + _softplus(k + alpha_S * _softplus(q - v / alpha_B) - n) - v


def _bracket(n, k, q, alpha_S, alpha_B):
    low = np.maximum(np.maximum(n, k), (k + alpha_S * q) / (1 + alpha_S / alpha_B))
    return low, low + np.log1p(2.0**alpha_S)


def find_root(constants, N, S, B):
    """scipy.optimize.elementwise.find_root (Chandrupatla's method, vectorised) in ln L, from the tight bracket."""
    from scipy.optimize import elementwise

    logs = _logs(constants, N, S, B)
    return np.exp(elementwise.find_root(_excess, _bracket(*logs), args=logs).x)


def brentq(constants, N, S, B):
    """scipy.optimize.brentq in a loop over points."""
    import math

    from scipy.optimize import brentq as solve

    *logs, alpha_S, alpha_B = _logs(constants, N, S, B)

    def softplus(z):
        return max(z, 0.0) + math.log1p(math.exp(-abs(z)))

    def excess(v, n, k, q):
        return n + softplus(k + alpha_S * softplus(q - v / alpha_B) - n) - v

    low, high = _bracket(*logs, alpha_S, alpha_B)
    return np.exp([solve(excess, a, b + 1e-9, args=tuple(point), xtol=1e-15, rtol=1e-14)
                   for a, b, *point in zip(low - 1e-9, high, *logs, strict=True)])


# ---- the six constants fitted jointly to losses: squares of log residuals


def squares_sum(constants, N, S, B, loss, weights=1.0):
    """The judge of joint fits: sum of weight * (log residual)^2 at constants [k, 6] -> [k]."""
    with np.errstate(all="ignore"):
        return np.array([np.sum(weights * (np.log(newton(each, N, S, B, steps=8)) - np.log(loss)) ** 2)
                         for each in np.asarray(constants, np.float64)])


def joint(N, S, B, loss, weights, starts, solve=newton, exact=True):
    """SciPy's least_squares in the logs of the constants from starts [k, 6] -> constants [k, 6], objective [k].

    exact: the Jacobian by the implicit function theorem; else SciPy's 2-point differences around the roots of `solve`.
    """
    from scipy.optimize import least_squares

    z, root = np.log(loss), np.sqrt(weights)

    def residuals(theta):
        return root * (np.log(solve(np.exp(theta), N, S, B)) - z)

    def jacobian(theta):
        L, slopes = columns(np.exp(theta), N, S, B)
        return slopes * (root / L)[:, None]

    ends = [least_squares(residuals, np.log(start), jac=jacobian if exact else "2-point", x_scale="jac", ftol=1e-12,
                          xtol=1e-12, gtol=1e-12, max_nfev=200) for start in starts]
    return np.exp([end.x for end in ends]), np.array([2 * end.cost for end in ends])
