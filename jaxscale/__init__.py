"""jaxscale: fit neural scaling laws, predict large runs from small ones, and plan them, in JAX.

    import jaxscale as jsc
    runs = jsc.read_runs("runs.csv")
    fit = jsc.fit(jsc.laws.Chinchilla, runs)
    plan = jsc.plan(fit, compute=1e21)

CSV -> Runs -> Fit -> law -> Plan: each noun is a record, each arrow one function.
"""

import importlib

# Each name is imported when it is first used: the command line can then set JAX's compilation cache before JAX loads,
# and only those who read tables wait for pandas.
_HOMES = {
    "Backtest": "validation", "Bootstrap": "uncertainty", "Design": "designs", "Fit": "fitting", "FitError": "errors",
    "GroupFits": "groups", "Hardware": "planning", "InputError": "errors", "Pareto": "planning", "Plan": "planning",
    "Pool": "pooling", "Runs": "runs", "backtest": "pooling", "constant": "laws.base", "damped_newton": "solver",
    "design": "designs", "fit": "fitting", "fit_groups": "groups", "huber": "objectives", "influence": "implicit",
    "lad": "objectives", "law": "laws.base", "load_fit": "files", "load_pool": "pooling", "pareto": "planning",
    "plan": "planning", "pool": "pooling", "read_runs": "tables", "refit": "implicit", "squares": "objectives",
    "sweep": "sweeps", "tradeoff": "planning",
}
_MODULES = ("datasets", "laws", "recipes", "schedules", "training", "units")

__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"jaxscale.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"jaxscale.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from importlib.metadata import version

        return globals().setdefault("__version__", version("jaxscale"))
    raise AttributeError(f"module 'jaxscale' has no attribute {name!r}")


def __dir__():
    return [*globals(), *__all__]
