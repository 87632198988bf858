"""The whole procedure of Su et al. 2024 (section 3): every step, the joint fit, and how far the constants move."""

import dataclasses

import jax
import numpy as np

from jaxscale.errors import FitError, InputError
from jaxscale.files import plain
from jaxscale.fitting import Fit, fit
from jaxscale.laws import KaplanNS, KaplanNSB, published
from jaxscale.objectives import squares
from jaxscale.recipes.checks import Check, converged, endless_batch, endless_data
from jaxscale.recipes.contours import LEVELS, ContourScan, check_levels, contour_scan
from jaxscale.recipes.sizes import STILL, ConvergedSizes, check_tolerance, converged_sizes
from jaxscale.recipes.steps import AlongTrajectories, LargeBatchSteps, along_trajectories, large, large_batch_steps
from jaxscale.tables import read_runs

CONSTANTS = ("N_c", "alpha_N", "S_c", "alpha_S", "B_star", "alpha_B", "E")
STEPS = {"sizes": "1  L(N) from converged runs", "steps": "2  L(N, S_min) from a large batch",
         "scan": "3-4 contours at one size, B_crit(L)", "along": "5  B_crit along trajectories",
         "joint": "6  all rows together"}
FAR = 3.0  # errors that a constant may move from its step to the joint fit without a warning
DRAWS = 1000  # of the contour scan's runs
USUAL_ALPHA_N = 0.076  # in both published fits; held where there is one size


@dataclasses.dataclass(frozen=True, eq=False)
class Procedure:
    """The steps of Su et al. on one table, each as its function returns it, None where the table cannot carry it.

    Attributes:
        sizes, steps, scan, along: the steps 1, 2, 3-4, 5.
        joint: the `Fit` of all rows: `KaplanNSB`; without several batch sizes `KaplanNS`.
        estimates: step -> constant -> (value, standard error; of its log but for E).
        checks: what the steps take for granted, and whether it holds.
        missing: step -> why there is none.
        notes: what a reader should know.
    """

    sizes: ConvergedSizes | None
    steps: LargeBatchSteps | None
    scan: ContourScan | None
    along: AlongTrajectories | None
    joint: Fit
    estimates: dict
    checks: tuple[Check, ...]
    missing: dict
    notes: tuple[str, ...]

    @property
    def law(self):
        """The law of the joint fit."""
        return self.joint.law

    def moved(self, step, name):
        """By what factor a constant is above the joint fit's in a step, and by how many of their errors together.

        The difference in nats in place of the factor for E.
        """
        value, error = self.estimates[step][name]
        there, known = self.estimates["joint"][name]
        apart = value - there if name == "E" else np.log(value / there)
        return apart if name == "E" else np.exp(apart), abs(apart) / np.hypot(error, known)

    @property
    def warnings(self):
        """A sentence for each step whose constants are far from the joint fit's."""
        sentences = []
        for step, found in self.estimates.items():
            apart = {name: self.moved(step, name)[1] for name in found
                     if step != "joint" and name in self.estimates["joint"]}
            far = {name: errors for name, errors in apart.items() if errors > FAR}
            if far:
                worst = max(far, key=far.get)
                sentences.append(f"step {STEPS[step].split()[0]} ends far from the joint fit in {', '.join(far)} "
                                 f"({worst} by {far[worst]:.1f} errors): its rows, or the steps before it, cannot "
                                 "carry it")
        return tuple(sentences)

    def as_dict(self):
        """The estimates of every step, the checks, what is missing and the warnings, as JSON types."""
        return plain({
            "estimates": {step: {name: {"value": value, "standard_error": error, "of_log": name != "E"}
                                 for name, (value, error) in found.items()}
                          for step, found in self.estimates.items()},
            "moved": {step: {name: dict(zip(("by", "errors"), self.moved(step, name), strict=True))
                             for name in found if name in self.estimates["joint"]}
                      for step, found in self.estimates.items() if step != "joint"},
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "missing": self.missing, "warnings": self.warnings, "notes": self.notes})

    def __str__(self):
        facts, C4, WebText2 = self.joint.facts, published["su2024-c4"], published["kaplan2020-webtext2"]
        lines = [f"The procedure of Su et al. 2024: {facts['points']} rows of {facts['runs']} runs ({facts['source']})",
                 "", "What its steps take for granted", *(f"  {check}" for check in self.checks), "",
                 "The constants, and how far each step's are from the joint fit, in their errors taken together",
                 f"  {'':42}{'value':>10}{'std. error':>12}{'off by':>12}{'errors':>8}"]
        for name in CONSTANTS:
            steps = [step for step in STEPS if name in self.estimates.get(step, {})]
            if steps:
                lines.append(f"  {name}   (published: {getattr(C4, name):.3g} on C4, {getattr(WebText2, name):.3g} on "
                             "WebText2)")
            for step in steps:
                value, error = self.estimates[step][name]
                lines.append(f"    {STEPS[step]:40}{value:10.4g} {_error(name, error):>11}")
                if step != "joint" and name in self.estimates["joint"]:
                    apart, errors = self.moved(step, name)
                    lines[-1] += f"  {f'{apart:+.3g}' if name == 'E' else f'x {apart:.3g}':>10}{errors:8.1f}"
        lines += ["", *(f"no step {STEPS[step]}: {why}" for step, why in self.missing.items()),
                  *(f"WARNING: {sentence}" for sentence in self.warnings), *self.notes]
        return "\n".join([*lines, "", str(self.joint)])


def procedure(runs, *, free=(), fix=None, batch=None, levels=LEVELS, tolerance=STILL, train=None, objective=None,
              weights="run", seed=0, drop_bad=False, progress=None):
    """Every step of Su et al. 2024 on one table, and the joint fit started from them -> `Procedure`.

    1 `converged_sizes`, 2 `large_batch_steps`, 3-4 `contour_scan` of the size that has most batch sizes, 5
    `along_trajectories`, 6 one least-squares fit of all rows through Eq 3.13, started from steps 1-5 and from a global
    search. A step that the table cannot carry is left out, and `missing` says why. Without several batch sizes the
    joint fit is L(N, S_min); with one size alpha_N is held at the published 0.076.

    Args:
        runs: a table of runs, as `read_runs` takes: N, S, B, loss and a run column. Drop the warm-up before.
        drop_bad: leave unusable rows out, listed, instead of refusing the table.
        free, fix: of the joint fit: ("E",) to fit a floor too, {"alpha_B": 0.205} to hold a constant.
        batch, levels, tolerance, train: of the steps 2, 3, 1, and of the check of endless data.
        objective, weights: of the joint fit, by default least squares of the log, every run counting the same.
        seed: of the resampling of runs. progress: as in `fit`.

    Raises:
        InputError: the table cannot carry the joint fit. FitError: it did not come to an end.

    >>> import jaxscale as jsc, numpy as np
    >>> law = jsc.laws.published["su2024-c4"]
    >>> rows = [{"run": f"{N} {B}", "N": N, "B": B, "S": S, "loss": float(law(N, S, B))}
    ...         for N, B in ((1e6, 1e6), (4e6, 1e6), (1e7, 1e5), (1e7, 1e6), (1e7, 1e7))
    ...         for S in np.geomspace(1e3, 1e5, 36)]
    >>> found = jsc.recipes.procedure(rows)
    >>> print(f"{found.law.alpha_N:.3f} {found.law.alpha_S:.2f} {found.law.alpha_B:.3f}")
    0.076 0.67 0.205
    """
    check_tolerance(tolerance)
    check_levels(levels)
    whole, missing = read_runs(runs), {}
    chosen = whole.select(tuple(name for name in ("N", "S", "B") if whole.has(name)), drop_bad=drop_bad)
    rows = large(chosen, batch)[1] if "B" in chosen.columns else None

    def attempt(step, make):
        try:
            return make()
        except (InputError, FitError) as error:
            missing[step] = str(error)

    sizes = attempt("sizes", lambda: converged_sizes(chosen, tolerance, floor="E" in free))
    steps = along = None
    if sizes is None:
        missing["steps"] = missing["along"] = "it takes the L(N) of step 1"
    else:
        steps = attempt("steps", lambda: large_batch_steps(chosen, sizes, batch))
        along = attempt("along", lambda: along_trajectories(chosen, steps)) if steps else None
        if steps is None:
            missing["along"] = "it takes the L(N, S_min) of step 2"
    scan = attempt("scan", lambda: contour_scan(_most_batches(chosen), levels))
    estimates = {}
    if sizes:
        estimates["sizes"] = _of_fit(sizes.fit, {"x_c": "N_c", "alpha": "alpha_N"})
    if steps:
        estimates["steps"] = _of_fit(steps.fit)
    if scan:
        drawn = scan.bootstrap(DRAWS, seed).law
        slope = 1 / np.asarray(drawn.alpha_B)  # of log B_crit in -log L: of any sign, so alpha_B itself has no spread
        estimates["scan"] = {"B_star": (scan.law.B_star, float(np.std(np.log(drawn.B_star)))),
                             "alpha_B": (scan.law.alpha_B, float(np.std(slope)) * abs(scan.law.alpha_B))}
    if along:
        estimates["along"] = _of_fit(along.fit)
    joint, notes = _joint(chosen, free, dict(fix or {}), _start(sizes, steps, scan, along), objective, weights, seed,
                          progress)
    estimates["joint"] = _of_fit(joint)
    checks = (converged(sizes) if sizes else Check("converged runs", None, "there is no step 1"),
              endless_data(whole, train),
              endless_batch(scan, rows.columns["B"].min(), rows.columns["loss"].min()) if scan else
              Check("relatively infinite batch", None, "there is no contour scan"))
    more = [note for step in (sizes, steps, scan, along) if step for note in step.notes]
    if sizes:
        over = sizes.loss / _least(joint.law, sizes.N) - 1
        more.append(f"by the joint fit the final losses of step 1 are {over.min():.1%} to {over.max():.1%} above L(N)")
    return Procedure(sizes, steps, scan, along, joint, estimates, checks, missing, (*more, *notes))


def _most_batches(runs):
    """The rows of the size that was trained at most batch sizes."""
    sizes, B = runs.select(("N", "S", "B")).columns["N"], runs.select(("N", "S", "B")).columns["B"]
    most = max(np.unique(sizes), key=lambda size: len(np.unique(B[sizes == size])))
    return runs.where(sizes == most)


def _least(law, N):
    with jax.enable_x64(True):
        return np.asarray(law.minimum_loss(N))


def _of_fit(found, names=None):
    """Constants of a fit that were not held, and their standard errors, of the log for positive ones."""
    names = names or {}
    return {names.get(name, name): (getattr(found.law, name), float(np.sqrt(found.covariance[name][name])))
            for name in found.law.constants if name not in found.facts["held"]}


def _start(sizes, steps, scan, along):
    """The law of the steps, None where one is missing."""
    batch = along.law if along else scan.law if scan else None
    if steps is None or batch is None:
        return None
    law = steps.fit.law
    return KaplanNSB(**{name: getattr(law, name) for name in law.constants}, B_star=batch.B_star,
                     alpha_B=batch.alpha_B)


def _joint(runs, free, fix, start, objective, weights, seed, progress):
    """The fit of all rows that the table can carry, and notes on what it had to leave."""
    several = {name: runs.has(name) and len(np.unique(runs.select((name,), drop_bad=True).columns[name])) > 1
               for name in ("N", "B")}
    Law, notes = KaplanNSB, []
    if not several["B"]:
        Law, start = KaplanNS, None
        notes.append("one batch size, so the joint fit is of L(N, S): nothing is known of B, and S_c is that of this "
                     "batch")
    if not several["N"] and "alpha_N" not in fix:
        fix["alpha_N"] = USUAL_ALPHA_N
        notes.append(f"one size, so alpha_N is held at the published {USUAL_ALPHA_N}: nothing is known of other sizes")
    found = fit(Law, runs, free=free, fix=fix, start=start, objective=squares() if objective is None else objective,
                weights=weights, seed=seed, progress=progress)
    return found, notes


def _error(name, error):
    return "-" if np.isnan(error) else f"{error:.3g}" if name == "E" else f"{error:.1%}"
