"""Photos a second that `ntdm prep-data` prepares, beside NeMo's own preparation of the first of them.

    python benchmarks/bench_prep.py
    python benchmarks/bench_prep.py --root ROOT --category aeroplane --nemo CHECKOUT --meshes CAD_single

NeMo's side is its own function, `prepare_pascal3d_sample` of a checkout of github.com/wufeim/NeMo, with the
settings of its config: the photo resized and cropped, the cuboid's vertices projected and their visibility
computed, a JPEG and an .npz written. It needs cv2 and BboxTools (at commit d998999 also line 65 of
nemo/utils/calculate_occ.py indented, which does not compile). Ours is the whole command: lists, CADs, crops,
masks of the annotated CAD, the cache file. Both make crops of the same size on the
same number of processes; NeMo's side of the first --photos photos, ours of all, over which the start of its
processes is spread. What is done once a category (NeMo's directions of the cuboid's vertices) is not counted.

The ratio is that of each side's least times. Wall time depends on what else runs; processor time (of all
processes, starting them included) hardly does.
"""

import argparse
import importlib
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from ntdm.config.stages import PrepConfig, SyntheticConfig
from ntdm.data_prep import prep_data
from ntdm.data_prep.raw.cad import read_off
from ntdm.data_prep.readers import pascal3d

NeMo = dict[str, Any]


def timed(run: Callable[[], int]) -> tuple[int, float, float]:
    """What `run` returns, its wall seconds, and the processor seconds of this process and those it ended."""
    before, start = os.times(), time.perf_counter()
    made = run()
    wall, after = time.perf_counter() - start, os.times()
    return made, wall, sum(after[:4]) - sum(before[:4])


def load_nemo(checkout: Path, meshes: Path, category: str) -> NeMo:
    """NeMo's preparation, without the parts of its package that need PyTorch3D; the meshes' directions."""
    package, utils = types.ModuleType("nemo"), types.ModuleType("nemo.utils")
    models = types.ModuleType("nemo.models")
    for module, folder in ((package, "nemo"), (utils, "nemo/utils"), (models, "nemo/models")):
        module.__path__ = [str(checkout / folder)]
        sys.modules[module.__name__] = module
    package.utils = utils  # type: ignore[attr-defined]
    utils.rle_to_mask = None  # type: ignore[attr-defined]  # only for segmentation masks, which are not asked
    utils.load_off = lambda path: read_off(Path(path))  # type: ignore[attr-defined]
    for name, exports in {
        "process_camera_parameters": ("CameraTransformer", "Projector3Dto2D"),
        "calculate_occ": ("cal_occ_one_image",),
        "calculate_point_direction": ("cal_point_weight", "direction_calculator"),
        "data_preparation": ("prepare_pascal3d_sample",),
    }.items():
        module = importlib.import_module(f"nemo.utils.{name}")
        for export in exports:
            setattr(utils, export, getattr(module, export))
    converter = importlib.import_module("nemo.models.mesh_memory_map").MeshConverter(path=meshes / category)
    directions = [utils.direction_calculator(*mesh) for mesh in converter.loader]  # type: ignore[attr-defined]
    prepare = utils.prepare_pascal3d_sample  # type: ignore[attr-defined]
    return {"prepare": prepare, "mesh_manager": converter, "direction_dicts": directions}


def nemo_sample(task: tuple[NeMo, Path, str, str, tuple[int, int], Path]) -> bool:
    """One photo by NeMo's function: whether it gave a sample."""
    nemo, root, category, name, size, out = task
    made = nemo["prepare"](
        category,
        name,
        str(root / "Images" / f"{category}_imagenet" / f"{name}.JPEG"),
        str(root / "Annotations" / f"{category}_imagenet" / f"{name}.mat"),
        0,
        save_image_path=str(out),
        save_annotation_path=str(out),
        out_shape=list(size),
        mesh_manager=nemo["mesh_manager"],
        direction_dicts=nemo["direction_dicts"],
    )
    return bool(made)


_nemo: NeMo = {}


def _nemo_task(task: tuple[Path, str, str, tuple[int, int], Path]) -> bool:
    return nemo_sample((_nemo, *task))


def run_nemo(
    root: Path, category: str, names: list[str], size: tuple[int, int], out: Path, workers: int
) -> int:
    tasks = [(root, category, name, size, out) for name in names]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        made = sum(pool.imap_unordered(_nemo_task, tasks, chunksize=4))
        pool.close()
        pool.join()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="PASCAL3D+; default: a synthetic one")
    parser.add_argument("--category", default="car")
    parser.add_argument("--split", default="val")
    parser.add_argument("--image-size", type=int, nargs=2, default=(320, 672), help="NeMo's of aeroplanes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--nemo", type=Path, help="a checkout of NeMo")
    parser.add_argument("--photos", type=int, default=10**9, help="how many of the list NeMo prepares")
    parser.add_argument("--meshes", type=Path, help="NeMo's cuboid meshes, a folder a category")
    options = parser.parse_args()
    size = (options.image_size[0], options.image_size[1])
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy"
        f" {np.__version__}, scipy {scipy.__version__}; crops of {size[0]} x {size[1]},"
        f" {options.workers} processes"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        root = options.root
        if root is None:
            from ntdm.data_prep import make_data  # not at the top, which each of our processes goes over

            config = SyntheticConfig(
                categories=(options.category,), val_per_category=100, train_per_category=1,
                ood_per_category=0, iid_per_category=0, image_size=480,
            )  # fmt: skip
            make_data.make_data(config, folder / "data")
            root = folder / "data" / "PASCAL3D+_release1.1"
        for photo in (root / "Images" / f"{options.category}_imagenet").iterdir():
            photo.read_bytes()  # from the disk once, so that no side waits for it
        names = pascal3d.list_path(root, options.category, options.split).read_text().split()
        prep = PrepConfig(image_size=size, scale=1.0)  # NeMo's scale

        def ours() -> int:
            report = prep_data.run(
                "pascal3d", root, folder / "cache", prep, splits=[options.split],
                categories=[options.category], workers=options.workers, overwrite=True,
            )  # fmt: skip
            return sum(file.samples for file in report.files)

        sides: dict[str, Callable[[], int]] = {"ntdm prep-data": ours}
        if options.nemo:
            import cv2

            cv2.setNumThreads(1)
            _nemo.update(load_nemo(options.nemo, options.meshes, options.category))
            (folder / "nemo").mkdir()
            sides["NeMo's prepare"] = lambda: run_nemo(
                root, options.category, names[: options.photos], size, folder / "nemo", options.workers
            )
        least: dict[str, tuple[float, ...]] = {}
        for _ in range(options.repeats):
            for side, run in sides.items():
                made, wall, processor = timed(run)
                each = (wall / made, processor / made)
                least[side] = tuple(map(min, least.get(side, each), each))
                print(
                    f"{side:15} {made} samples: {made / wall:7.1f} a second, {1e3 * processor / made:7.1f} ms"
                    " of processor time each"
                )
        if options.nemo:
            mine, theirs = least.values()
            print(f"ratio: wall {theirs[0] / mine[0]:.1f}, processor time {theirs[1] / mine[1]:.1f}")


if __name__ == "__main__":
    main()
