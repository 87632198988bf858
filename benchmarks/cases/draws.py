"""(ii) 4,000 bootstrap refits of (i), whole runs resampled, each judged against the best known fit of its draw."""

import numpy as np
from measuring import Table
from peers import additive, published

import jaxscale as jsc
from cases import one_fit
from jaxscale.uncertainty import resampled_counts


def tables(data=None, draws=4000, warmed=200, searched=60, tools=100, warm=2, say=None):
    """draws: jaxscale's; of them, how many peers are given, warm and with a search of their own."""
    N, D, loss = one_fit.columns() if data is None else data
    fit = one_fit.fit(N, D, loss)
    weights = resampled_counts(len(N), draws, 0)
    optimum = np.array([np.log(getattr(fit.law, name)) if name in "EAB" else getattr(fit.law, name)
                        for name in ("A", "B", "E", "alpha", "beta")])
    table = Table(f"{draws:,} draws", "Both count resamples multinomially, the same ones. At the optimum: of the draws "
                  "given to each. Worst excess: over them.", say)

    def ours(starts):
        drawn = fit.bootstrap(draws, starts=starts)
        if drawn.failed:
            raise RuntimeError(f"{drawn.failed:.2%} of the draws were left out, and not said which")
        return one_fit.constants(drawn.law)

    def add(who, peer, count):
        chosen = additive.some(np.arange(draws), count)
        table.add(who, lambda: np.stack([_best(*peer(weights[i]), N, D, loss, weights[i]) for i in chosen]),
                  times=draws / len(chosen), items=chosen, warm=0)

    def search(w):
        found = additive.projected_starts(N, D, loss, w, additive.exponent_grid(12), 2)
        return additive.lbfgsb(N, D, loss, w, [*found, optimum])

    everything = np.arange(draws)
    table.add('jaxscale, bootstrap(starts="warm")', lambda: ours("warm"), items=everything, warm=warm)
    table.add("jaxscale, bootstrap(): a global search in every draw", lambda: ours("global"), items=everything,
              warm=warm)
    add("SciPy L-BFGS-B tight, from the fit's optimum", lambda w: additive.lbfgsb(N, D, loss, w, [optimum]), warmed)
    add("SciPy, the same global search: 144 nnls, 2 L-BFGS-B tight, one more from the optimum", search, searched)
    add("SciPy BFGS at its defaults from Hoffmann's constants (protocol of Besiroglu et al.)",
        lambda w: additive.bfgs(N, D, loss, w, [additive.HOFFMANN]), warmed)
    table.judge(lambda row: additive.huber_sum(row.measured.result, N, D, loss, weights[row.items]), np.max)
    return [table, *([squares(N, D, loss, draws, tools, warm, say)] if tools else [])]


def squares(N, D, loss, draws, tools, warm, say):
    table = Table(f"{draws:,} draws, squares of the loss itself", "What simple-scaling-laws minimises. Its draws are "
                  "its own, residuals with random signs: the times compare, the draws do not.", say)
    fit = one_fit.fit(N, D, loss, objective=jsc.squares(log=False))
    table.add("jaxscale, bootstrap(): a global search in every draw", lambda: fit.bootstrap(draws), warm=warm)
    table.add("simple-scaling-laws (PyPI): warm, its grid watched for something better, the fit included",
              (published.simple_scaling_laws, N, D, loss, tools), times=draws / tools, warm=0, apart=True)
    return table


def _best(constants, _, N, D, loss, weights):
    """The best end [5] of those of one draw, by the judge."""
    return constants[np.nanargmin(additive.huber_sum(constants, N, D, loss, weights))]
