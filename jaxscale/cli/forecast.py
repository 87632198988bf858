"""`jaxscale forecast`: where a run that is training will end, from its log and a fit."""

import functools
import math

from jaxscale.cli import values
from jaxscale.cli.answer import Answer, aligned, misleading
from jaxscale.cli.options import Json, NoCache, file, flag, repeated, taking
from jaxscale.errors import InputError

LEVEL = 0.8
CHUNK = 256  # rows that the filter takes at once: one compiled shape for any log
EVERY = 1.0  # seconds between looks at a log that grows


def forecast(
    log: file("LOG", "csv or jsonl of one run: step and loss; tokens and lr where there are any.") = None,
    law: taking("FIT.json", "What 'jaxscale fit -o' wrote.") = None,
    N: taking("X", "Parameters of the run.", "--N") = None,
    B: taking("TOKENS", "Tokens per step; needed unless the log has tokens.", "--B") = None,
    n_ctx: taking("X", "Context length, for a law that reads it.", "--n_ctx") = None,
    until: taking("STEP", "The step to forecast; by default twice the log's last.") = None,
    target: taking("NATS", "Say how probable a loss of that or less is there.") = None,
    lr: taking("X", "The learning rate there, in the log's unit; by default as it is now.", "--lr") = None,
    annealed: flag("--annealed", "The fit is of runs at the end of their decay, not at the peak rate.") = False,
    warm_up: taking("STEPS", "Pass over that many; by default those before the fit's first rows.") = None,
    noise: taking("SD", "Of ln loss from row to row, if known: 1e-3 for held-out losses.") = None,
    rate: taking("SHARE", "The probability of a false alarm over the run.") = None,
    column: repeated("loss=COL", "The column of a quantity; repeatable.") = None,
    follow: flag("--follow", "Go on reading, and redraw, until Ctrl-C.") = False,
    json: Json = False,
    no_cache: NoCache = False,
):
    """Forecast the loss of a run from its log so far, with an interval, and say if it left what the fit allows."""
    import sys

    from jaxscale.training.forecast import ALARM_RATE
    from jaxscale.training.logs import Log

    if log is None or law is None:
        raise InputError("forecast wants the log of a run and a fit: jaxscale forecast run.jsonl --law fit.json.")
    if follow and (json or not sys.stdout.isatty()):
        raise InputError("--follow redraws a view in a terminal, and the answer goes "
                         f"{'out as JSON' if json else 'elsewhere'}: leave it out.")
    given = {"N": N, "B": B, "n_ctx": n_ctx, "until": until, "target": target, "lr": lr, "warm_up": warm_up,
             "noise": noise}
    given = {name: text and values.number(text, f"--{name.replace('_', '-')}") for name, text in given.items()}
    for name in ("until", "target"):
        if given[name] is not None and not 0 < given[name] < math.inf:
            raise InputError(f"--{name} must be positive, not {given[name]:g}.")
    watched = Watched(Log(log, values.assignments(column, "--column", "loss=my_name")), law, given, annealed,
                      ALARM_RATE if rate is None else values.number(rate, "--rate"))
    watched.read(whole=not follow)
    if follow:
        watched_live(watched)
    return watched.answer()


class Watched:
    """A log, and what a forecaster made of it so far."""

    def __init__(self, log, path, given, annealed, rate):
        from jaxscale.cli.subject import subject_of
        from jaxscale.files import load_fit

        self.log, self.given = log, given
        self.how = {"annealed": annealed, "rate": rate}
        self.subject = subject_of(load_fit(path), path)
        self.forecaster, self.state, self.last, self.rows = None, None, None, 0

    def read(self, whole):
        """Take in what was appended."""
        import jax
        import numpy as np

        rows = self.log.new(whole)
        if not len(rows.step):
            return
        scan, _ = _compiled()
        with jax.enable_x64(True):
            if self.forecaster is None:
                self._begin(rows)
            for begin in range(0, len(rows.step), CHUNK):
                part = [x if x is None else np.full(CHUNK, math.nan) for x in rows]
                for padded, x in zip(part, rows, strict=True):
                    if x is not None:
                        padded[:len(x[begin:begin + CHUNK])] = x[begin:begin + CHUNK]
                step, tokens, loss, lr = part
                self.state = scan(self.forecaster, self.state, step, tokens, loss, lr)
        seen = np.isfinite(rows.step) & np.isfinite(rows.loss)
        self.rows += int(seen.sum())
        if seen.any():
            self.last = float(rows.step[seen][-1]), float(rows.loss[seen][-1])

    def _begin(self, rows):
        import jax.numpy as jnp
        import numpy as np

        from jaxscale.training import forecaster

        B = self.given["B"]
        if B is None and rows.tokens is not None:
            known = np.isfinite(rows.tokens) & (rows.step > 0)
            B = float(rows.tokens[known][-1] / rows.step[known][-1]) if known.any() else None
        if B is None:
            raise InputError(f"a forecast needs the tokens of a step, and {self.log.path} has no tokens: pass --B.")
        options = {name: self.given[name] for name in ("warm_up", "noise")}
        self.forecaster = forecaster(self.subject.fit, self.given["N"], B, n_ctx=self.given["n_ctx"], **options,
                                     **self.how)
        self.state = self.forecaster.init(jnp.float64)

    def found(self):
        """The forecast as JSON data, or None before the first row."""
        import jax

        if self.last is None:
            return None
        step, loss = self.last
        _, look = _compiled()
        until = self.given["until"] or 2 * step
        if until < step:
            raise InputError(f"--until must lie ahead, and {self.log.path} is at step {step:g} already: not {until:g}.")
        target, lr = self.given["target"], self.given["lr"]
        with jax.enable_x64(True):
            state = self.state
            ends, probability, alarm = look(self.forecaster, state, until, math.nan if target is None else target, lr)
            mean, low, high = map(float, ends)
            said = {"step": step, "loss": loss, "until": until, "forecast": mean,
                    "interval": {"level": LEVEL, "low": low, "high": high}}
            if target is not None:
                said |= {"target": target, "probability": float(probability)}
        raised = bool(alarm.raised)
        return said | {"alarm": {"raised": raised, "step": float(alarm.step) if raised else None,
                                 "side": ("above" if alarm.above else "below") if raised else None,
                                 "evidence": float(alarm.evidence)},
                       "noise": float((state.noise / state.batch) ** 0.5), "rows": self.rows,
                       "skipped": int(state.skipped)}

    def text(self):
        said = self.found()
        if said is None:
            return f"{self.log.path}: no row with a step and a loss yet"
        interval, alarm = said["interval"], said["alarm"]
        rows = [("now", f"{said['loss']:.4f}", f"at step {said['step']:,.0f}"),
                ("forecast", f"{said['forecast']:.4f}", f"at step {said['until']:,.0f}; {LEVEL:.0%} within "
                                                        f"{interval['low']:.4f} to {interval['high']:.4f}")]
        if "target" in said:
            rows.append(("P(target)", f"{said['probability']:.3f}", f"that it is {said['target']:g} or less"))
        rows.append(("noise", f"{said['noise']:.2%}",
                     f"of a row; {said['rows']:,} rows, {said['skipped']:,} passed over"))
        if alarm["raised"]:
            rows.append(("alarm", alarm["side"], f"the forecast since step {alarm['step']:,.0f}"))
        else:
            rows.append(("alarm", "none", f"evidence {alarm['evidence']:.3g} of {1 / self.how['rate']:.3g}"))
        return "\n".join(f"{line}  {words}" for line, words in zip(
            aligned([row[:2] for row in rows]).split("\n"), (row[2] for row in rows), strict=True))

    def answer(self):
        from jaxscale.files import plain

        said = self.found()
        if said is None:
            raise InputError(f"{self.log.path} must have a column of steps and one of losses with a number in each, "
                             "and it has none: name them with --column S=... --column loss=...")
        notes, reason = self.log.notes, self.subject.reason
        if said["alarm"]["raised"]:
            reason = (f"since step {said['alarm']['step']:,.0f} the loss has been {said['alarm']['side']} what the fit "
                      "and the run so far allow: look at the run, and trust its forecast less.")
        elif not math.isfinite(said["forecast"]):
            reason = "the law gives no finite loss at that step: check the fit, --N and --B."
        document = plain(said)
        return misleading(reason, self.text(), document, notes) if reason else Answer(self.text(), document, notes)


def watched_live(watched):
    """Redraw until Ctrl-C."""
    import signal
    import threading

    from rich.live import Live
    from rich.panel import Panel

    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())

    def view():
        return Panel.fit(watched.text(), title=watched.log.path, subtitle="Ctrl-C ends")

    try:
        with Live(view(), auto_refresh=False, transient=True) as live:
            while not stop.wait(EVERY):
                watched.read(whole=False)
                live.update(view(), refresh=True)
    finally:
        signal.signal(signal.SIGINT, before)


@functools.cache
def _compiled():
    """`Forecaster.scan`, and all that is asked of a state, in one compiled function each; JAX is loaded by now."""
    import jax

    from jaxscale.training import Forecaster

    def look(forecaster, state, until, target, lr):
        state = forecaster.settled(state)
        return (forecaster.predict(state, until, lr, LEVEL), forecaster.probability(state, until, target, lr),
                forecaster.alarm(state))

    return jax.jit(Forecaster.scan), jax.jit(look)
