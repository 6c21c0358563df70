"""How far runs lie from a first one on the same photos, with 95 % intervals of the difference.

    python benchmarks/paired_difference.py --splits pascal3d/val ablations/full ablations/single-alpha ...

Printed is, for every further run, its metric less that of the first, in points. An interval is of the
paired difference (a resample draws photos, and takes both runs' results on them): narrower than what the
runs' own intervals suggest, because a photo that is hard for one is hard for the other. It says nothing of
another training's seed.
"""

import argparse
from pathlib import Path

import numpy as np

from ntdm.reports.measures import METRICS, resampled_means
from ntdm.reports.runs import check_comparable, read_run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--splits", default="pascal3d/val", help="separated by commas, taken together")
    options = parser.parse_args()
    splits = options.splits.split(",")
    first, *others = runs = [read_run(path, splits) for path in options.runs]
    check_comparable(runs)
    for run in runs:
        if set(run.errors) != set(splits):
            parser.error(f"{run.path} has no errors of {', '.join(sorted(set(splits) - set(run.errors)))}")
    shown = [
        m for m in METRICS if all(t.measured(METRICS[m].column) for r in runs for t in r.errors.values())
    ]
    count = sum(len(table) for table in first.errors.values())
    print(f"| less {first.method}, on {count} photos | {' | '.join(METRICS[m].label for m in shown)} |")
    print(f"| --- |{' ---: |' * len(shown)}")
    for run in others:
        cells = []
        for metric in shown:
            of = METRICS[metric].of
            apart = np.concatenate([of(run.errors[s]) - of(first.errors[s]) for s in splits])
            low, high = np.percentile(resampled_means(apart[:, None], options.splits), (2.5, 97.5))
            cells.append(f"{apart.mean():+.1f} ({low:+.1f} to {high:+.1f})")
        print(f"| {run.method} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
