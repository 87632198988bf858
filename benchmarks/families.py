"""Which runs foretell a family's largest model best? The study of Choshen et al. 2024 on real tables.

    python benchmarks/families.py         # needs ../shared/data; writes benchmarks/families.md; some minutes

Three tables of trajectories: `hitchhiker_colpret` (a subset of the paper's own, sizes read from the models' names),
`misfitting` and `gemstones`. They are no part of the project.
"""

import dataclasses
import itertools
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd

import jaxscale as jsc

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
DROPS = (0.0, 0.1, 0.3, 1e10)
WAYS = ("own", "pooled", "borrowed", "borrowed, beta too", "best")
UNIFORM = 11.0  # nats of a uniform guess among 60,000 tokens: a first loss above it is in other units
GPT3 = {"Small": 125e6, "Large": 760e6}  # Brown et al. 2020, Table 2.1: those that their names do not state
SUFFIX = {"m": 1e6, "b": 1e9}


def colpret(note):
    """The models that state N in their names, in families of one data set, tokenizer and evaluation."""
    table = pd.read_csv(DATA / "hitchhiker_colpret" / "trajectories.csv")
    found = {}
    for model in table.model.unique():
        family, N = _family(model)
        if family:
            found[model] = family, N
    note(f"hitchhiker_colpret: {len(found)} of {table.model.nunique()} models are in a family and state N; the others "
         "are alone of their kind, state none, or have losses in shares of the first one (lambda, pile-t5).")
    table = table[table.model.isin(found)]
    table = table.assign(family=table.model.map(lambda model: found[model][0]), D=table.tokens, run=table.model,
                         N=table.model.map(lambda model: found[model][1]))
    opt = table.family == "OPT"
    table.loc[opt, "loss"] = np.log(table.loc[opt, "loss"])
    note("OPT's losses, 37 to 9.8, are perplexities (token level: their logs, 3.6 to 2.3, are the usual losses): the "
         "logs are taken.")
    first = table.sort_values("D").groupby("run").loss.first()
    strange = sorted(first.index[first > UNIFORM])
    table = table[~table.run.isin(strange)]
    note(f"left out, as their first loss is above {UNIFORM:g}, in no unit that is said (21 falling to 2 is neither "
         f"nats nor perplexity): {', '.join(strange)}.")
    rising = [run for run, part in table.groupby("run")
              if part.sort_values("D").loss.iloc[-3:].mean() > 1.05 * part.loss.min()]
    table = table[~table.run.isin(rising)]
    note("left out, as they end more than 5% above their least loss (diverged, or another evaluation): "
         f"{', '.join(rising) or 'none'}.")
    return table[["family", "run", "N", "D", "loss"]]


def _family(model):
    """(family, N) of a model of hitchhiker_colpret by its name; (None, None) where it tells none."""
    if match := re.fullmatch(r"GPT2-([\d.]+)B-(\w+)-([\d.]+)", model):  # Muennighoff et al. 2023
        size, data, epochs = match.groups()
        return f"datablations {data} x{float(epochs):g}", float(size) * 1e9
    if match := re.fullmatch(r"(\w+)-d=(\d+)_l=(\d+)_h=\d+-([\d.]+)", model):  # Gadre et al. 2024
        data, width, layers, _ = match.groups()
        return f"gadre {data.removesuffix('_original')}", 12 * int(layers) * int(width) ** 2
    if match := re.fullmatch(r"pythia-([\d.]+)([mb])(-deduped)?(-5shot)?(-v0)?", model):
        size, unit, deduped, shots, old = match.groups()
        kind = "".join(part or "" for part in (shots, old)) if old else ""
        return f"pythia{deduped or ''}{kind}", float(size) * SUFFIX[unit]
    if match := re.fullmatch(r"GPT-3 (Small|Large|2\.7B)", model):
        return "GPT-3", GPT3.get(match[1], 2.7e9)
    if match := re.fullmatch(r"OPT-([\d.]+)([TB])", model):
        return "OPT", float(match[1]) * {"T": 1e12, "B": 1e9}[match[2]]
    if match := re.fullmatch(r"OLMo-(\d)B(-Twin-2T)?", model):
        return "OLMo", float(match[1]) * 1e9
    return None, None


def misfitting(note):
    """The checkpoints of each size's run of lowest final loss among the longest: one learning rate a size."""
    table = pd.read_csv(DATA / "misfitting" / "scaling_results.csv")
    table = table.assign(run=[f"{a} {b} {c}" for a, b, c in zip(table.model, table.total_steps, table.peak_lr,
                                                                 strict=True)])
    last = table.sort_values("D").groupby("run").tail(1)
    best = last.loc[last.groupby(["N", "total_steps"]).loss.idxmin()]
    longest = best.sort_values("total_steps").groupby("N").tail(3)
    table = table[table.run.isin(longest.run)]
    note(f"misfitting: of each size the three longest runs, each at its best peak learning rate: {len(longest)} runs.")
    return table.assign(family="misfitting")[["family", "run", "N", "D", "loss"]]


def gemstones(note):
    """The constant-rate trajectories, all shapes; sizes within 10% count as one."""
    table = pd.read_csv(DATA / "gemstones" / "trajectories_dense.csv")
    table = table.drop_duplicates(["run_name", "step"]).rename(columns={"run_name": "run", "final_loss": "loss"})
    sizes = np.sort(table.N.unique())
    group = np.cumsum(np.diff(np.log(sizes), prepend=np.log(sizes[0])) > 0.1)
    middle = {N: float(np.exp(np.mean(np.log(sizes[group == g])))) for N, g in zip(sizes, group, strict=True)}
    note(f"gemstones: {table.run.nunique()} runs at a constant learning rate, in {len({*middle.values()})} sizes once "
         "those within 10% count as one (shapes differ).")
    return table.assign(family="gemstones", N=table.N.map(middle))[["family", "run", "N", "D", "loss"]]


def percent(x):
    return "-" if np.isnan(x) else f"{x:.2%}"


def sections(found, seconds, notes):
    columns, main = found.columns, {"rows": "checkpoints", "drop": 0.1}
    laws = columns["way"] != "best"
    fitted = int(np.isfinite(columns["are"][laws]).sum())
    yield (f"{found.fits} laws were fitted in {seconds:.0f} s, {laws.sum()} of them to score ({fitted} had an "
           "answer), the others behind the pooled constants. ARE: mean of |predicted / observed - 1| from 0.7 of the "
           "tokens of a family's largest model on, as in the paper; no fit of the family has seen it. Medians over the "
           "fits of a family, then over families. `best` is no law, but the least loss among the rows fitted.\n")
    yield "\n".join(f"- {note}" for note in notes)
    yield "\n## The families\n"
    yield "| family | target N | smaller sizes | best ARE of any fit | own, all smaller sizes | borrowed, largest one |"
    yield "|---|---|---|---|---|---|"
    for family in dict.fromkeys(columns["family"].tolist()):
        mine = columns["family"] == family
        smaller, target = np.unique(columns["largest"][mine]), columns["target"][mine][0]
        least = np.nanmin(columns["are"][mine])
        whole = found.where(way="own", family=family, **main) & (columns["models"] == len(smaller))
        one = found.where(way="borrowed", family=family, models=1, **main) & (columns["largest"] == smaller[-1])
        yield (f"| {family} | {target:.3g} | {', '.join(f'{N:.3g}' for N in smaller)} | {percent(least)} | "
               f"{percent(found.median(whole))} | {percent(found.median(one))} |")
    yield ("\nThe eight families of datablations are one in all but data and repeats, and so are pythia's: medians "
           "over families lean on them, and what they borrow comes from their sisters too. On the same windows, which "
           "every way could fit (three sizes and more):\n")
    yield "| way | ARE |\n|---|---|"
    yield "\n".join(f"| {way} | {percent(are)} |" for way, are in found.compared("way", **main).items())
    yield "\n## Checkpoints or final losses\n"
    yield "The same windows of models, where both could be fitted.\n"
    yield "| way | checkpoints | final losses |\n|---|---|---|"
    for way in WAYS:
        pair = found.compared("rows", way=way, drop=0.1)
        yield f"| {way} | {percent(pair.get('checkpoints', np.nan))} | {percent(pair.get('final', np.nan))} |"
    yield "\n## The start of each run left out (checkpoints)\n"
    yield "| way | nothing | 10% | 30% | 1e10 tokens |\n|---|---|---|---|---|"
    for way in WAYS:
        each = found.compared("drop", way=way, rows="checkpoints")
        yield f"| {way} | " + " | ".join(percent(each.get(drop, np.nan)) for drop in DROPS) + " |"
    yield "\n## How many sizes (checkpoints, 10% left out)\n"
    counts = np.unique(columns["models"])
    yield "| way | " + " | ".join(map(str, counts)) + " |\n|" + "---|" * (1 + len(counts))
    for way in WAYS:
        each = (found.median(found.where(way=way, models=count, **main)) for count in counts)
        yield f"| {way} | " + " | ".join(map(percent, each)) + " |"
    yield "\nMany small or one large, in families of four smaller sizes and more.\n"
    yield from number_or_size(found, main)
    yield "\n## By scale-up, from the largest size fitted to the target (checkpoints, 10% left out)\n"
    yield "| way | scale-up | fits | ARE |\n|---|---|---|---|"
    for way in WAYS:
        for low, high, fits, are in found.by_scale(way=way, **main):
            upper = "more" if np.isinf(high) else f"{high:g}"
            yield f"| {way} | {low:g} to {upper} | {fits} | {percent(are)} |"


def number_or_size(found, main):
    columns = found.columns
    yield "| fitted | ARE |\n|---|---|"
    for title, way, pick in (("three smallest sizes, pooled", "pooled", "few small"),
                             ("three smallest sizes, borrowed", "borrowed", "few small"),
                             ("the largest size alone, borrowed", "borrowed", "one large")):
        chosen = np.zeros(len(columns["are"]), bool)
        for family in np.unique(columns["family"]):
            sizes = np.unique(columns["largest"][columns["family"] == family])
            if len(sizes) < 4:  # else the two are of the same runs
                continue
            mine = found.where(way=way, family=family, **main)
            if pick == "few small":
                chosen |= mine & (columns["models"] == 3) & (columns["smallest"] == sizes[0])
            else:
                chosen |= mine & (columns["models"] == 1) & (columns["largest"] == sizes[-1])
        yield f"| {title} | {percent(found.median(chosen))} |"


def beside_the_paper(found):
    """What the paper says, in our words, with its section, and the same number here."""
    columns, main = found.columns, {"rows": "checkpoints", "drop": 0.1}

    def at(family, way, largest=None, **settings):
        mask = found.where(**{"way": way, "family": family, **main, **settings})
        sizes = columns["largest"][mask]
        if not len(sizes):
            return "no fit"
        largest = sizes.max() if largest is None else largest
        one = mask & (columns["largest"] == largest)
        most = one & (columns["models"] == columns["models"][one].max())
        return percent(found.median(most if way == "own" else one & (columns["models"] == 1)))

    def every(way):
        """All the smaller sizes of each family."""
        least = {family: columns["smallest"][columns["family"] == family].min() for family in columns["family"]}
        most = {family: columns["largest"][columns["family"] == family].max() for family in columns["family"]}
        ends = [(least[family], most[family]) for family in columns["family"]]
        whole = (columns["smallest"] == [low for low, _ in ends]) & (columns["largest"] == [high for _, high in ends])
        return percent(found.median(found.where(way=way, **main) & whole))

    best = [np.nanmin(columns["are"][columns["family"] == family]) for family in dict.fromkeys(columns["family"])]
    pair = found.compared("rows", way="own", drop=0.1)
    yield "\n## Beside the paper\n"
    yield ("Choshen, Zhang & Andreas 2024, arXiv 2410.11840, by section. They fit by least squares (curve_fit) and "
           "borrow A and alpha of Muennighoff et al. 2023; here Huber's function of log residuals is minimised, and "
           "what is borrowed comes from the other families of the table.\n")
    yield "| they find | here |\n|---|---|"
    yield ("| ARE of 4% is about the best that is typically reached; up to 20% still tells choices apart (4) | own "
           f"constants, all smaller sizes: {every('own')}; pooled: {every('pooled')}; the best of all fits of a "
           f"family, known afterwards: {percent(float(np.median(best)))} |")
    yield ("| final losses alone are significantly worse than checkpoints (6) | own constants: "
           f"{percent(pair.get('final', np.nan))} against {percent(pair.get('checkpoints', np.nan))} |")
    for family in ("OPT", "pythia-v0"):
        yield (f"| without the first 10B tokens OPT and Pythia go from above 15% to 4-10% (6.1) | {family}, own, with "
               f"all: {at(family, 'own', drop=0.0)}; without: {at(family, 'own', drop=1e10)} |")
    yield f"| OLMo 7B from 1B alone, A and alpha borrowed: below 1% (5) | {at('OLMo', 'borrowed')} |"
    yield f"| OPT 175B from 13B alone, so borrowed: 25% (5) | {at('OPT', 'borrowed')} |"
    yield f"| the best loss seen, without a law: 18% on average (5.2) | {every('best')} |"


def main():
    if not DATA.exists():
        raise SystemExit(f"the real tables are wanted at {DATA}: they are no part of the project.")
    notes = []
    table = pd.concat([part(notes.append) for part in (colpret, misfitting, gemstones)], ignore_index=True)
    counts = table.groupby("family").N.nunique()
    table = table[table.family.map(counts) > 1]
    start = time.perf_counter()
    found = jsc.recipes.hitchhiker(table, drops=DROPS)
    more = jsc.recipes.hitchhiker(table, drops=(0.1,), borrow=("alpha", "A", "beta"), ways=("borrowed",))
    seconds = time.perf_counter() - start
    more.columns["way"] = np.full(len(more.columns["way"]), "borrowed, beta too")
    columns = {name: np.concatenate([found.columns[name], more.columns[name]]) for name in found.columns}
    found = dataclasses.replace(found, columns=columns, fits=found.fits + more.fits)
    print(found)
    lines = [HEADER]
    for line in itertools.chain(sections(found, seconds, notes), beside_the_paper(found)):
        print(line, flush=True)
        lines.append(line)
    (HERE / "families.md").write_text("\n".join(lines) + "\n")
    return found


HEADER = """# Families of models: how to foretell the largest

Written by `python benchmarks/families.py` (`recipes.hitchhiker`).
"""
if __name__ == "__main__":
    main()
