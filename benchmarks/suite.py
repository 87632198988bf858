"""jaxscale and its peers side by side, in speed and in what they reach.

    pip install -e ".[bench]"                # peers that are absent become rows that say so
    python benchmarks/suite.py               # about 12 minutes on 2 cores; writes benchmarks/RESULTS.md
    python benchmarks/suite.py --only i,iv --out some.md

Wall seconds are the median of the warm runs after a first one, which includes compilation; slow peers are measured
once, on a random subset of their starts, draws or groups with a fixed seed, and multiplied ("x K"). All fits are judged
by one function a law, from the constants alone: at the optimum is an objective within 1e-8 (relative) of the best that
anyone reached. Peers run in this process with one BLAS thread, but for the tools from PyPI, which run in their own.
jaxscale has every core as a device (JAX_NUM_CPU_DEVICES), peers in JAX compute on one of them, SciPy on one core.
"""

import argparse
import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # before NumPy and JAX are imported
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")  # more threads make SciPy slower on tables this small
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count()))  # every core is a device, as the README advises

from measuring import circumstances  # noqa: E402

CASES = {"i": "one_fit", "ii": "draws", "iii": "groups", "iv": "roots", "v": "trajectories", "vi": "cold",
         "million": "million", "limit": "limit"}


def page(only, say=None):
    """The page's lines."""
    from importlib import import_module

    begun, lines = time.time(), ["# jaxscale and its peers", "", "Written by `python benchmarks/suite.py`.", "",
                                 " ".join(__doc__.split("\n\n")[2].split()), "", *circumstances()]
    for name in only:
        case = import_module(f"cases.{CASES[name]}")
        lines += ["", f"## {case.__doc__.strip().splitlines()[0]}"]
        for table in case.tables(say=say):
            lines += ["", *table.markdown()]
    return [*lines, "", f"{time.time() - begun:.0f} s in all."]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES), help="cases, comma-separated: " + ", ".join(CASES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "RESULTS.md")
    chosen = parser.parse_args()
    only = chosen.only.split(",")
    if unknown := set(only) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}: there are {', '.join(CASES)}")
    lines = page(only, lambda text: print(text, file=sys.stderr, flush=True))
    chosen.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
