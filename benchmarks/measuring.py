"""What the benchmarks measure with: wall time, peak memory, and the rows and tables of their pages."""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

OPTIMUM = 1e-8  # relative excess of the objective up to which a fit is at the optimum


class Measured(NamedTuple):
    """One call, made several times."""

    result: object
    first: float  # seconds of the first call, compilation included
    seconds: float  # the median of those after it; of the first where there were none
    megabytes: float  # the peak of resident memory over what was resident before the first call


def measure(call, warm=3):
    """Make a call once and then `warm` times more."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at what is resident now
    except OSError:
        pass  # elsewhere than on Linux: growth over the peak so far
    before = _peak()
    times = []
    for _ in range(1 + warm):
        begun = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - begun)
    return Measured(result, times[0], statistics.median(times[1:] or times), max(0.0, _peak() - before))


def measure_apart(function, *arguments, warm=0):
    """`measure` in a fresh process: for tools that change `jax.config` when imported, or fork."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_apart, function, arguments, warm).result()


def _apart(function, arguments, warm):
    return measure(lambda: function(*arguments), warm)


def _peak():
    """The most that was resident, MB: getrusage's ru_maxrss, but for its share of the process that started this one."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text()).group(1)) / 1024


@dataclasses.dataclass
class Row:
    """A competitor in a table: how long it took, and what is told of its result; or why it could not be had."""

    who: str
    measured: Measured | None
    times: float = 1.0  # how many times what was measured the whole case is
    items: np.ndarray | None = None  # the fits that its objectives are of; None: all of one
    why: str = ""
    told: dict = dataclasses.field(default_factory=dict)

    @property
    def seconds(self):
        return self.measured.seconds * self.times


class Table:
    """Competitors at one task. The first that is added is the one that all are compared with."""

    def __init__(self, title, about="", say=None):
        self.title, self.about, self.rows, self.say = title, about, [], say or (lambda text: None)

    def add(self, who, call, *, times=1.0, items=None, warm=3, apart=False):
        """Measure a competitor; one that is missing or fails becomes a row that says why.

        apart: `call` is a function and its arguments, for a process of its own.
        """
        begun = time.perf_counter()
        try:
            row = Row(who, measure_apart(*call, warm=warm) if apart else measure(call, warm), times, items)
        except ImportError as error:
            row = Row(who, None, why=f"not installed: {error}")
        except Exception as error:  # a peer's own trouble is a finding, and must not end the suite
            row = Row(who, None, why=f"failed: {type(error).__name__}: {str(error)[:160]}")
        self.rows.append(row)
        self.say(f"{self.title} | {who} | {row.why or text_of_seconds(row.seconds)}"
                 f" ({time.perf_counter() - begun:.1f} s spent)")

    def absent(self, who, why):
        self.rows.append(Row(who, None, why=why))

    def had(self):
        return [row for row in self.rows if row.measured is not None]

    def judge(self, values, reduce, known=np.inf):
        """Tell how near each came to the best objectives that anyone reached, by one function for all.

        values: a function of a row -> objectives [k] of its items; reduce: np.min for many starts of one fit, np.max
        for the worst of many fits; known: an objective known to be reached.
        """
        found, best = [], {}
        for row in self.had():
            objectives = np.atleast_1d(values(row))
            items = np.zeros(len(objectives), int) if row.items is None else row.items
            found.append((row, objectives, items))
            for item, objective in zip(items, objectives, strict=True):
                best[item] = np.fmin(best.get(item, known), objective)
        for row, objectives, items in found:
            least = np.array([best[item] for item in items])
            with np.errstate(invalid="ignore", over="ignore"):
                excess = np.nan_to_num(objectives / least - 1, nan=np.inf)
            row.told |= {"at the optimum": f"{np.mean(excess <= OPTIMUM):.3f} of {len(items)}",
                         "worst excess" if reduce is np.max else "excess": f"{reduce(excess):.1e}"}
        return best

    def markdown(self):
        base = next((row.seconds for row in self.rows[:1] if row.measured is not None), None)
        columns = list(dict.fromkeys(name for row in self.rows for name in row.told))
        lines = [f"### {self.title}", "", *([self.about, ""] if self.about else []),
                 "| " + " | ".join(["", "wall", "first call", "x the first row", *columns, "peak MB"]) + " |",
                 "|---" * (len(columns) + 5) + "|"]
        for row in self.rows:
            if row.measured is None:
                lines.append(f"| {row.who} | {row.why} |" + " |" * (len(columns) + 3))
                continue
            scaled = f" (x{row.times:.3g})" if row.times != 1 else ""
            ratio = f"{row.seconds / base:.3g}" if base else ""
            lines.append("| " + " | ".join([row.who, text_of_seconds(row.seconds) + scaled,
                                            text_of_seconds(row.measured.first), ratio,
                                            *(row.told.get(name, "") for name in columns),
                                            "" if np.isnan(row.measured.megabytes) else
                                            f"{row.measured.megabytes:.0f}"]) + " |")
        return lines


def text_of_seconds(seconds):
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def circumstances():
    """The machine, the versions, the commit and the command, as lines."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True,
                                check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
              ] if cpuinfo.exists() else []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    names = "jaxscale jax jaxlib optax numpy scipy optimistix chinchilla simple-scaling-laws nlsq".split()
    return [f"- Machine: {(models or [platform.machine()])[0]}, {os.cpu_count()} cores, {memory:.0f} GiB; "
            f"load before: {os.getloadavg()[0]:.2f}.",
            f"- Python {platform.python_version()}; " + ", ".join(f"{name} {_version(name)}" for name in names) + ".",
            f"- Commit {commit}; `{' '.join(['python', *sys.argv])}`."]


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
