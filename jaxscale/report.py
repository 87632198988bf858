"""A fit as text: what a person reads, and pastes into a paper."""

import math


def equation(Law):
    """The first line of the law's docstring, which says the equation."""
    return (Law.__doc__ or Law.__name__).strip().splitlines()[0]


def report(fit):
    """The report that `print(fit)` shows."""
    facts, certificate, Law = fit.facts, fit.certificate, type(fit.law)
    lines = [f"{Law.__name__} fitted to {facts['points']} rows of {facts['runs']} runs ({facts['source']})",
             f"  {equation(Law)}", "",
             f"  {'constant':<10}{'value':>14}{'std. error':>14}{'of its log':>12}"]
    for name, about in Law.constants.items():
        value, error = getattr(fit.law, name), getattr(fit.standard_errors, name)
        log = math.sqrt(fit.covariance[name][name]) if about.positive and not math.isnan(error) else math.nan
        tie = next((f"   = {', '.join(n for n in group if n != name)}" for group in facts["tied"] if name in group), "")
        line = f"  {name:<10}{value:>14.6g}"
        line += "          held" if name in facts["held"] else f"{_number(error):>14}{_number(log):>12}{tie}"
        lines.append(line)
    for name, (mean, sd) in facts["prior"].items():
        lines.append(f"  prior on {name}: {mean:g}, sd {sd:g}{' of its log' if Law.constants[name].positive else ''}")
    lines += ["", f"  objective    {facts['objective']['text']} = {fit.objective:.10g}",
              f"  residuals    rms {facts['rms_residual']:.3g}{' of the log' if facts['objective']['log'] else ''}",
              f"  errors       {fit.errors}",
              f"  weight       {facts['effective_runs']:.4g} effective runs",
              f"  certificate  {_verdict(fit)}",
              "  fitted on    " + ", ".join(f"{name} {low:.3g} to {high:.3g}"
                                             for name, (low, high) in facts["ranges"].items())]
    if certificate.at_bound:
        lines.append(f"  at a bound   {', '.join(certificate.at_bound)}: its error is not known")
    if 2 <= facts["runs"] <= 2 * (len(Law.constants) - len(facts["held"])) and "jackknife" not in fit.errors:
        lines.append(f"  caution      errors from {facts['runs']} runs only are rough, and most often too small; the "
                     "jackknife is honest")
    if certificate.condition > 1e10:
        lines.append("  caution      some constants are only known together: predict, but do not quote them alone")
    if facts["dropped"]:
        reasons = sorted({reason for _, reason in facts["dropped"]})
        lines.append(f"  left out     {len(facts['dropped'])} rows: {'; '.join(reasons)}")
    return "\n".join(lines)


def _number(x):
    return "-" if math.isnan(x) else f"{x:.3g}"


def _verdict(fit):
    c = fit.certificate
    if c.vertex is not None:
        how = "exact vertex, dual feasible" if c.vertex else "no vertex passed the dual test"
    else:
        how = f"Newton promises {c.promised:.1e} of the objective"
    word = "converged" if fit.converged else "NOT CONVERGED"
    return f"{word}: {how}; {c.agreeing} of {c.starts} starts agree; condition {c.condition:.1e}"
