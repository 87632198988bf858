"""The exact solution of least absolute deviations: a vertex, where as many residuals vanish as constants are free.

The corner of a rounded |r| is shrunk step by step; the residuals that stay inside it are the ones that vanish at the
optimum. They are then solved for exactly, and the answer is certified by dual feasibility: minus the gradient of the
other rows is a combination of the vanishing rows' gradients with coefficients between -weight and +weight.
"""

import itertools

import numpy as np

from jaxscale.problem import rows

CORNERS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)  # of the median output; times 1 for log residuals


def solve_vertex(problem, u, weights):
    """The vertex next to u: (point, sum of weighted |r|, whether the dual is feasible there).

    The last is None, and the point u itself, where fewer residuals are inside the corner than constants are free: a law
    that curves can have its optimum between vertices, and there the rounded objective is smooth.
    """
    free = np.flatnonzero((u > problem.lower) & (u < problem.upper))
    r, jacobian = map(np.asarray, rows(problem, u)[:2])
    here = total(problem, r, weights)
    if here <= np.sum(weights) * 8 * np.finfo(np.float64).eps * max(1.0, np.max(np.abs(problem.target))):
        return u, here, True  # every residual vanishes
    order = np.argsort(np.where(weights > 0, np.abs(r), np.inf), kind="stable")
    chosen = _independent(jacobian[:, free], order)
    if len(chosen) < len(free):
        return u, here, False
    # More residuals than vanish at the vertex may be inside the corner: then the smallest need not be the ones.
    for active in (chosen, *itertools.combinations(order[:len(free) + 2], len(free))):
        solved = _solve(problem, u, weights, np.array(active), free)
        if solved is not None:
            return *solved, True
    vanishing = (np.abs(r) <= problem.delta) & (weights > 0)
    return u, here, None if np.sum(vanishing) < len(free) else False


def _solve(problem, u, weights, active, free):
    """The point where the active residuals vanish and the objective there; None if the dual is not feasible."""
    for _ in range(8):
        r, jacobian = map(np.asarray, rows(problem, u)[:2])
        try:
            move = np.linalg.solve(jacobian[np.ix_(active, free)], -r[active])
        except np.linalg.LinAlgError:
            return None
        if not np.all(np.isfinite(move)) or np.max(np.abs(move), initial=0.0) > 0.1:
            return None
        u = u.copy()
        u[free] = np.clip(u[free] + move, problem.lower[free], problem.upper[free])
    r, jacobian = map(np.asarray, rows(problem, u)[:2])
    jacobian = jacobian[:, free]
    # Rows that are copies of an active one vanish with it, and share its coefficient.
    copies = np.all(np.isclose(jacobian[:, None], jacobian[active], rtol=1e-9, atol=0), axis=-1) & (
        np.abs(r)[:, None] <= 1e-12 * np.max(np.abs(problem.target)))
    copies[active] = np.eye(len(active), dtype=bool)
    others = ~copies.any(axis=1)
    side = weights * np.where(r > 0, problem.overestimate, -1.0)
    dual = np.linalg.solve(jacobian[active].T, -jacobian[others].T @ side[others])
    reach, slack = weights @ copies, 1e-9 * np.max(weights)
    if np.any((dual < -reach - slack) | (dual > reach * problem.overestimate + slack)):
        return None
    return u, total(problem, np.where(others, r, 0.0), weights)


def total(problem, residuals, weights):
    """The sum of weighted absolute residuals, overestimates weighing more where that was asked for."""
    side = np.where(residuals > 0, problem.overestimate, 1.0)
    return float(np.sum(weights * side * np.abs(residuals)))


def _independent(jacobian, order):
    """The first rows in `order` that are linearly independent, as many as there are columns."""
    chosen = []
    for i in order:
        if np.linalg.matrix_rank(jacobian[chosen + [i]], tol=1e-10 * np.abs(jacobian).max()) == len(chosen) + 1:
            chosen.append(i)
        if len(chosen) == jacobian.shape[1]:
            break
    return np.array(chosen)
