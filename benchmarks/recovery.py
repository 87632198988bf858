"""Are the reported errors right? Six constants recovered from simulated tables, many times over.

    python benchmarks/recovery.py            # about 10 minutes on 2 cores; writes benchmarks/recovery.md

Tables of 10 sizes x 5 batch sizes x 200 steps (N 1e6..6e7, B 3e4..3e6, S 300..1e5) are simulated from the constants of
Su et al. 2024, Table 1 (C4, and WebText2), and fitted from the default start, over 40 fixed seeds, with three kinds of
noise. For each constant, z = (fitted - true) / reported standard error, on the log scale: if the errors are right its
rms is near 1.
"""

import sys
import time
from pathlib import Path

import jax
import numpy as np

import jaxscale as jsc
from jaxscale import laws

SIZES, BATCHES, STEPS = np.geomspace(1e6, 6e7, 10), np.geomspace(3e4, 3e6, 5), np.geomspace(300, 1e5, 200)
RUNS = len(SIZES) * len(BATCHES)
LAWS = {"C4": laws.published["su2024-c4"], "WebText2": laws.published["kaplan2020-webtext2"]}
CONSTANTS = [name for name in laws.KaplanNSB.constants if name != "E"]
KINDS = {"independent 1%": 0, "AR(0.95) 1%": 1, "independent 1%, run effect 0.5%": 2}


def table(kind, seed, law):
    """A simulated table as `Runs`."""
    rng = np.random.default_rng([kind, seed])
    shocks = rng.standard_normal((RUNS, len(STEPS)))
    if kind == 1:
        for t in range(1, len(STEPS)):
            shocks[:, t] = 0.95 * shocks[:, t - 1] + np.sqrt(1 - 0.95**2) * shocks[:, t]
    noise = 0.01 * shocks + (0.005 * rng.standard_normal((RUNS, 1)) if kind == 2 else 0.0)
    N, B, S = (x.ravel() for x in np.meshgrid(SIZES, BATCHES, STEPS, indexing="ij"))
    with jax.enable_x64(True):
        loss = np.asarray(law(N, S, B)) * np.exp(noise.ravel())
    return jsc.Runs.from_columns({"N": N, "S": S, "B": B, "loss": loss}, run=np.repeat(np.arange(RUNS), len(STEPS)))


def scores(kind, seeds, law, **how):
    """z [seeds, constants]."""
    rows = []
    for seed in seeds:
        fit = jsc.fit(laws.KaplanNSB, table(kind, seed, law), **how)
        if not fit.converged:
            raise SystemExit(f"seed {seed} of kind {kind} did not converge")
        rows.append([np.log(getattr(fit.law, name) / getattr(law, name)) / np.sqrt(fit.covariance[name][name])
                     for name in CONSTANTS])
        print(f"\r{len(rows)} of {len(seeds)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return np.array(rows)


def main():
    begun = time.time()
    lines = ["# Recovery of six constants from simulated tables", "",
             "Written by `python benchmarks/recovery.py`; what it does is in its first lines.", "",
             "| " + " | ".join(["constants", "noise", "objective, errors", "seeds",
                                *(f"rms z {name}" for name in CONSTANTS), "max abs z"]) + " |",
             "|---" * (len(CONSTANTS) + 5) + "|"]
    for data, law in LAWS.items():
        studies = [(name, kind, range(40), "squares, sandwich by run", {"objective": jsc.squares()})
                   for name, kind in KINDS.items()]
        studies += [(name, kind, range(5), "Huber(1e-3), 200 bootstrap draws", {"errors": "bootstrap", "draws": 200})
                    for name, kind in KINDS.items() if data == "C4"]
        for name, kind, seeds, how, options in studies:
            z = scores(kind, seeds, law, **options)
            rms = " | ".join(f"{x:.2f}" for x in np.sqrt(np.mean(z**2, axis=0)))
            lines.append(f"| {data} | {name} | {how} | {len(seeds)} | {rms} | {np.abs(z).max():.2f} |")
            print(lines[-1], flush=True)
    lines += ["", f"jaxscale {jsc.__version__}, jax {jax.__version__}, {jax.devices()[0].platform}, "
                  f"{time.time() - begun:.0f} s."]
    (Path(__file__).parent / "recovery.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
