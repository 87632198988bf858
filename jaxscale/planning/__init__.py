"""Plan a run: the model, data and batch of least loss for a budget, or of least budget for a loss.

    plan = jsc.plan(fit, compute=1e21)     # Plan: compute, N, D, S, B, loss
    jsc.plan(law, loss=2.0)                # the least compute that reaches a loss
    jsc.plan(fit.bootstrap(4000), compute=1e21).interval(0.8)
    jsc.plan(law, compute=1e21, inference_tokens=1e13, max_tokens=1e12).flat(0.01)
    jsc.pareto(law, loss=2.0, hardware=jsc.Hardware(...)).within(days=21)

At a fixed budget a larger model sees fewer tokens. At the optimum the slope of the loss in ln N is zero: the slope
comes from autodiff, its zero is bracketed, and as it stays zero the optimum has exact derivatives too (`optimum`). Any
law of N, D, S, B, C and M = D/N is planned like this, with any costs and limits; closed forms only test it.
"""

from jaxscale.planning.frontier import Pareto, pareto
from jaxscale.planning.hardware import Hardware
from jaxscale.planning.plans import Plan, optimum, plan
from jaxscale.planning.questions import Tradeoff, check_compute, tradeoff

__all__ = ["Hardware", "Pareto", "Plan", "Tradeoff", "check_compute", "optimum", "pareto", "plan", "tradeoff"]
