"""A design as text."""

import textwrap

import numpy as np

from jaxscale.report import equation

RAY = 0.95  # correlation of log N and log D from which on runs lie along one ray


def report_of(design):
    Law = type(design.law)
    lines = [f"What {design.rows} rows of {design.runs} runs ({design.source}) can tell of {Law.__name__}",
             f"  {equation(Law)}", "", f"  {'column':<10}{'levels':>8}{'from':>12}{'to':>12}{'times':>9}"]
    for name, (levels, low, high) in design.spans.items():
        times = f"{high / low:>9.3g}" if low > 0 else ""
        lines.append(f"  {'D/N' if name == 'M' else name:<10}{levels:>8}{low:>12.3g}{high:>12.3g}{times}")
    for (a, b), r in design.correlations.items():
        ray = ": the runs lie along one ray" if {a, b} == {"N", "D"} and abs(r) > RAY else ""
        lines.append(f"  log {a} and log {b}: correlation {r:.3g}{ray}")
    lines += [f"  a row scatters by {design.noise:.2g}" + " of ln loss" * (Law.output == "loss"), "",
              f"  {'constant':<12}{'value':>12}{'std. error':>12}{'others known':>14}"]
    for name, known in design.constants.items():
        errors = f"{_share(known.error):>12}{_share(known.alone):>14}"
        lines.append(f"  {name:<12}{known.value:>12.4g}{errors}{_flag(known)}")
    width = max(map(len, design.quantities))
    lines += ["", f"  {'quantity':<{width}}{'value':>12}{'std. error':>12}"]
    for name, known in design.quantities.items():
        error = f"{known.error:.2g}" if known.kind == "slope" and known.error < 10 else _share(known.error)
        lines.append(f"  {name:<{width}}{known.value:>12.4g}{error:>12}{_flag(known)}")
    lines += ["", "  spectrum    " + ", ".join(f"{value:.3g}" for value in design.spectrum) +
              " (1 over each: the error along a direction)", f"  weakest     {_direction(design)}"]
    if not design.advice:
        lines += ["", "  identified  everything, if the law is of this form" if design.identified else
                  "  not identified, and nothing in this table's range would help: reach further"]
    for word, (sentence, code, option, errors) in zip(("do", "or"), design.advice, strict=False):
        left = ", ".join(f"{name} {_share(error)}" for name, error in errors.items())
        parts = [(word, sentence), *([("type", f"{code}   ({option})")] if code else []),
                 ("then", left or "everything is identified")]
        lines += ["", *(textwrap.fill(f"  {name:<12}{text}", 110, subsequent_indent=14 * " ") for name, text in parts)]
    return "\n".join(lines)


def _share(error):
    return "unknown" if error > 10 else f"{error:.2%}" if error < 0.01 else f"{error:.1%}"


def _flag(known):
    return "" if known.identified else "   NOT IDENTIFIED"


def _direction(design):
    parts = design.directions[:, -1]
    largest = [i for i in np.argsort(-np.abs(parts)) if abs(parts[i]) > 0.1 * np.abs(parts).max()]
    positive = {name: about.positive for name, about in type(design.law).constants.items()}
    return " ".join(f"{parts[i]:+.2f} {'ln ' * positive[design.names[i].split(' = ')[0]]}{design.names[i]}"
                    for i in largest)
