"""What `jaxscale fit` answers without --law: several laws, their back-tests, and one forecast."""

import math

from jaxscale.cli.answer import progress_bar

FAR = 10.0  # without a budget, the answer is for that many times the largest run
LEVEL = 0.8


def pooled(runs, question, budget, laws=None):
    """(pool, text, JSON data of its plan) of a table, for a budget in FLOPs."""
    from jaxscale.files import plain
    from jaxscale.pooling import pool

    with progress_bar("fits", None) as progress:
        made = pool(runs, laws, progress=progress, **question)
        compute = FAR * made.largest if budget is None else budget
        best = made.plan(compute, LEVEL)
    return made, f"{made}\n\n{answered(best, made, budget is not None)}", plain(plan_document(best, made))


def plan_document(best, made):
    each = [{"law": law, "early": early, "N": one.N, "D": one.D, "loss": one.loss}
            for (law, early), one in best.each.items()]
    return {"compute": best.compute, "N": best.N, "D": best.D, "loss": best.loss,
            "distance": best.compute / made.largest, "usable": best.usable,
            "interval": {"level": best.level, **{name: list(ends) for name, ends in best.interval.items()}},
            "each": each}


def extrapolations(made, given):
    """A note for each of the given quantities that lies outside the table."""
    from jaxscale.prediction import outside

    return tuple(f"{sentence}: this is an extrapolation" for sentence in outside(made.fit.facts["ranges"], given))


def answered(best, made, asked=True):
    """The answer in the last lines: the run, its interval, the distance, and what the back-test missed at it."""
    import numpy as np

    lines = [str(best), ""]
    for compute in np.ravel(best.compute):
        distance = float(compute) / made.largest
        lines.append(f"{compute:.3g} FLOPs are {distance:.3g} times the largest run of the table"
                     + ("." if asked else " (--compute asks for another)."))
        tested = made.distances
        at = next((row for row in tested if row["from"] < distance <= row["to"]), None)
        if at:
            far = f"{at['from']:g} to {at['to']:g}" if math.isfinite(at["to"]) else f"over {at['from']:g}"
            lines.append(f"Runs {far} times beyond were missed by {at['error']:.1%} on your own data ({at['points']} "
                         "forecasts).")
        elif tested and distance > 1:
            row = tested[-1]
            lines.append(f"No run of your own lies so far beyond others; from {row['from']:g} times on they were "
                         f"missed by {row['error']:.1%}.")
    return "\n".join(lines)
