"""Tools from PyPI that fit L = E + A / N^alpha + B / D^beta. Each is to run in a process of its own (`measure_apart`):
nlsq turns x64 and a compilation cache on when it is imported, and chinchilla forks.

They take and return what the peers of `additive` do, unless they say otherwise.
"""

import logging
import multiprocessing
import os
import tempfile

import numpy as np

from peers import additive


def chinchilla(N, D, loss, weights, starts_each, scale):
    """chinchilla 0.2: BFGS by differences in long double, from a grid of starts, in as many processes as cores.

    starts_each: the values of e, a, b, alpha and beta that span the grid. It minimises the mean of `scale` times its
    `log_huber`; scale 1 is its documentation's, with which SciPy's absolute tolerance of 1e-5 is met early.
    """
    os.environ["MPLBACKEND"] = "Agg"
    multiprocessing.set_start_method("fork", force=True)  # its workers read globals that only a fork hands on
    import pandas as pd
    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    with tempfile.TemporaryDirectory() as folder:
        tool = Chinchilla(folder, dict(zip(("e", "a", "b", "alpha", "beta"), starts_each, strict=True)), log_level=50,
                          loss_fn=lambda y, fitted: scale * log_huber(y, fitted, delta=additive.DELTA))
        tool.database.df = pd.DataFrame({"C": 6 * N * D, "N": N, "D": D, "loss": loss})
        tool.fit()
    ends = np.array([[tool.E, tool.A, tool.B, tool.alpha, tool.beta]], np.float64)
    return ends, additive.huber_sum(ends, N, D, loss, weights)


def nlsq(N, D, loss, weights, starts):
    """nlsq 0.7: its curve_fit on logs with its Huber loss, one start after another; for weights of 1."""
    import jax.numpy as jnp
    from nlsq import CurveFit

    logs = additive.Logs(N, D, loss, weights)

    def log_loss(inputs, a, b, e, alpha, beta):
        return jnp.log(jnp.exp(a - alpha * inputs[0]) + jnp.exp(b - beta * inputs[1]) + jnp.exp(e))

    logging.disable(logging.WARNING)  # it reports every fit
    fitter, ends = CurveFit(), []
    for start in starts:
        try:
            end, _ = fitter.curve_fit(log_loss, np.stack([logs.x, logs.y]), logs.z, p0=logs.move(start), loss="huber",
                                      f_scale=additive.DELTA, ftol=1e-12, xtol=1e-12, gtol=1e-12, max_nfev=1000)
            ends.append(logs.back(np.asarray(end)))
        except (RuntimeError, ValueError):  # how it says that it did not converge
            ends.append(np.full(5, np.nan))
    ends = additive.constants_of(ends)
    return ends, additive.huber_sum(ends, N, D, loss, weights)


def simple_scaling_laws(N, D, loss, draws):
    """simple-scaling-laws 0.2: `fit` of its separable-power law with a wild bootstrap of `draws` draws.

    It knows no Huber objective: it minimises squares of the loss itself -> constants [1 + draws, 5], the fit's first.
    """
    import polars
    import simple_scaling_laws as tool

    table = polars.DataFrame({"training_run_id": [str(i) for i in range(len(N))], "test_set_id": ["one"] * len(N),
                              "model_size__N": N, "dataset_size__D": D, "test_loss__loss": loss})
    model = tool.fit(table, law="separable-power", n_draws=draws, seed=0)
    target = model.primary_target
    centre = {name: float(np.exp(np.mean(np.log(column)))) for name, column in (("N", N), ("D", D))}

    def natural(E, A, B, alpha, beta):
        """It scales inputs by their geometric means."""
        return np.stack([E, A * centre["N"] ** alpha, B * centre["D"] ** beta, alpha, beta], axis=-1)

    fitted = natural(**model.params(target))
    drawn = natural(*model.draws[target].params.T)
    return np.concatenate([fitted[None], drawn])


def squares_sum(constants, N, D, loss):
    """The judge of squares of the loss [...] at constants [..., 5]."""
    E, A, B, alpha, beta = np.moveaxis(np.asarray(constants, np.float64)[..., None], -2, 0)
    return np.sum((E + A * N**-alpha + B * D**-beta - loss) ** 2, axis=-1)
