"""Time and memory of `ntdm report` with bootstrap intervals, breakdown and figures.

    python benchmarks/bench_report.py --methods 10 --samples 10000

Made-up error and prediction files of so many methods and samples in all, over the five nuisances and twelve
categories, are reported as Table 2 in a process of its own; printed are versions, sizes, wall and processor
time, and the largest resident memory, interpreter and imports included.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib
import numpy as np

from ntdm.config.protocol import CATEGORIES, NUISANCES
from ntdm.io.error_table import write_errors
from ntdm.io.predictions import PREDICTION_COLUMNS
from ntdm.io.table import write_csv


def write_run(run: Path, samples: int, generator: np.random.Generator, predictions: bool) -> None:
    """One method's files; every run has the same samples."""
    for nuisance in NUISANCES:
        n = samples // len(NUISANCES)
        keys = {
            "dataset": ["ood_cv"] * n,
            "split": [nuisance] * n,
            "category": [CATEGORIES[i % len(CATEGORIES)] for i in range(n)],
            "name": [f"im{i:06d}_00" for i in range(n)],
        }
        rotation = generator.gamma(1.2, 0.35, n).clip(0, np.pi)
        guessed = np.where(generator.random(n) < 0.8, keys["category"], generator.choice(CATEGORIES, n))
        values = {
            "rotation_error": rotation,
            "amodal_iou": generator.beta(5, 3, n),
            "visible_iou": generator.beta(4, 3, n),
            "class_correct": (guessed == keys["category"]).astype(int),
            "seconds": generator.random(n),
            "rotation_error_free": rotation,
            "amodal_iou_free": generator.beta(5, 3, n),
        }
        write_errors(run / "errors" / "ood_cv" / f"{nuisance}.csv", keys | values)
        if predictions:
            path = run / "predictions" / "ood_cv" / f"{nuisance}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            pose = ["0.5"] * (len(PREDICTION_COLUMNS) - 5)
            rows = zip(*keys.values(), guessed, strict=True)
            write_csv(path, PREDICTION_COLUMNS, ([*map(str, row), *pose] for row in rows))
    (run / "config.json").write_text(json.dumps({"method": run.name}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", type=int, default=10)
    parser.add_argument("--samples", type=int, default=10_000, help="of each method, over five splits")
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, matplotlib {matplotlib.__version__}, "
        f"{platform.machine()}, {os.cpu_count()} cores; {options.methods} methods x {options.samples} samples"
    )
    for predictions in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            runs = [Path(folder) / f"method {i}" for i in range(options.methods)]
            for i, run in enumerate(runs):
                write_run(run, options.samples, np.random.default_rng(i), predictions)
            command = [
                sys.executable,
                "-c",
                "from ntdm.cli import main; main()",
                "report",
                "--table",
                "2",
                "--out",
                f"{folder}/report",
                *map(str, runs),
            ]
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            assert status == 0, "the report failed"
            print(
                f"errors{' and predictions' if predictions else '                '}: {wall:5.1f} s wall, "
                f"{used.ru_utime + used.ru_stime:5.1f} s of processor time, "
                f"at most {used.ru_maxrss / 1024:.0f} MB"
            )


if __name__ == "__main__":
    main()
