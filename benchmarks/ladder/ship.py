"""Write the ladder's runs as the table inside the package, jaxscale/data/ladder.csv.gz.

    python benchmarks/ladder/ship.py benchmarks/ladder/results
"""

import argparse
import gzip
from pathlib import Path

import pandas as pd

PACKAGE = Path(__file__).parents[2] / "jaxscale" / "data" / "ladder.csv.gz"
COLUMNS = "run role N B S D loss loss_prose loss_train layers width heads seed lr".split()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    grid, target = pd.read_csv(results / "grid.csv"), pd.read_csv(results / "target.csv")
    depth = target["layers"].iloc[0]
    grid["role"] = ["fit" if layers == depth else "other depth" for layers in grid["layers"]]
    table = pd.concat([grid, target.assign(role="target")]).rename(columns={"rate": "lr"})
    table["run"] = table["run"].str.split("-", n=1).str[1]
    table = table.sort_values(["N", "B", "seed", "S"], kind="stable")
    PACKAGE.write_bytes(gzip.compress(table[COLUMNS].to_csv(index=False).encode(), mtime=0))
    print(f"{len(table)} rows of {table['run'].nunique()} runs, {PACKAGE.stat().st_size / 1e3:.0f} kB: {PACKAGE}")


if __name__ == "__main__":
    main()
