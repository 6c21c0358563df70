"""Photos a second that `ntdm make-data` makes on one core, files written.

    python benchmarks/bench_make_data.py --size 256
    python benchmarks/bench_make_data.py --cad-root PASCAL3D+_release1.1

Prints versions and sizes, then a line a kind of photo: a training photo with its annotation, and a validation
photo with its annotation and three occlusion levels (four photos). Each photo counts with the least processor
time of several runs, which other work on the machine disturbs less than wall time; models are built before.
"""

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy
import torch

from ntdm.config.protocol import CATEGORIES
from ntdm.config.stages import SyntheticConfig
from ntdm.data_prep.synthetic.photo import Sample, make


def least_seconds(sample: Sample, repeats: int) -> float:
    """Least processor time of making the sample's files, in folders that are there but for the first time."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        make(sample)
        times.append(time.process_time() - start)
        for path in sample.out.rglob("*.*"):
            if path.is_file():
                path.unlink()
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=int, default=256, help="longer side, pixels; the other is 0.75 to 1 of it"
    )
    parser.add_argument("--photos", type=int, default=10, help="of each category and kind")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cad-root", type=Path, help="PASCAL3D+ root; all twelve categories of real CADs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    categories = CATEGORIES if options.cad_root else SyntheticConfig().categories
    config = SyntheticConfig(categories=categories, image_size=options.size)
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy"
        f" {np.__version__}, scipy {scipy.__version__}, torch {torch.__version__}, one thread;"
        f" {options.size} pixels, {len(categories)} categories,"
        f" {'CADs of ' + str(options.cad_root) if options.cad_root else 'built-in CADs'}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for split, pictures in (("train", 1), ("val", 4)):
            samples = [
                Sample(config, Path(folder), split, category, index, options.cad_root)
                for category in categories
                for index in range(options.photos)
            ]
            seconds = np.array([least_seconds(sample, options.repeats) for sample in samples])
            print(
                f"{split:6} {pictures} photo(s) a sample: {pictures / seconds.mean():6.1f} photos/s,"
                f" slowest sample {seconds.max() * 1e3:.0f} ms"
            )


if __name__ == "__main__":
    main()
