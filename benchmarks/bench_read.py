"""Random reads by ntdm's torch Dataset, photos stored raw, by LZF and by gzip, beside loose JPEG + .npz.

    python benchmarks/bench_read.py [CACHE.h5]

The loose files are the same samples as NeMo keeps them, a JPEG and an .npz (not compressed) a sample, and
hold the same fields; an item of theirs is the same dictionary of tensors. Both are stacked into batches of 8.
Prints bytes a sample, then samples a second: of processor time, and of wall time. All files are in the
system's memory.
"""

import argparse
import contextlib
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import measure
import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import default_collate

from ntdm.config.stages import PrepConfig, SyntheticConfig
from ntdm.data.dataset import SampleDataset
from ntdm.data_prep import make_data, prep_data
from ntdm.io.cache import CacheFile, CacheWriter, Sample

MASKS = ("amodal_mask", "visible_mask")
CAMERA = ("viewpoint", "focal", "principal_point", "bbox")


def samples(file: CacheFile, count: int) -> list[Sample]:
    """The first samples of a cache file, without occluders."""
    names, sources = file["name"], file["source"]
    cads = file["cad_index"]
    return [
        Sample(
            name=names[i],
            source=sources[i],
            cad_index=int(cads[i]),
            image=file.read("images", i),
            **{field: file.read(field, i) for field in (*MASKS, *CAMERA)},
        )
        for i in range(min(count, len(file)))
    ]


def write_cache(path: Path, file: CacheFile, made: list[Sample], compression: str) -> Path:
    key = {"dataset": file.dataset, "split": file.split, "category": file.category}
    writer = CacheWriter(
        path, **key, image_size=file.image_size, config={}, cads=file.cads(), compression=compression
    )
    with writer:
        for sample in made:
            writer.add(sample)
    return path


def write_loose(folder: Path, made: list[Sample]) -> None:
    folder.mkdir()
    for sample in made:
        Image.fromarray(sample.image).save(folder / f"{sample.name}.JPEG")
        fields = {name: getattr(sample, name) for name in (*MASKS, *CAMERA, "name", "cad_index")}
        np.savez(folder / f"{sample.name}.npz", **fields)


def read_loose(folder: Path, name: str) -> dict[str, Any]:
    with Image.open(folder / f"{name}.JPEG") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    with np.load(folder / f"{name}.npz") as fields:
        item: dict[str, Any] = {"image": pixels, "name": str(fields["name"])}
        item |= {field: torch.as_tensor(fields[field], dtype=torch.float32) for field in CAMERA}
        item |= {field: torch.from_numpy(fields[field]).bool() for field in MASKS}
        item["cad_index"] = int(fields["cad_index"])
    return item


def synthetic_cars(folder: Path, count: int) -> Path:
    """A cache file of crops of 512 x 512."""
    config = SyntheticConfig(
        categories=("car",), train_per_category=count, val_per_category=0, ood_per_category=0,
        iid_per_category=0, image_size=480,
    )  # fmt: skip
    root = make_data.make_data(config, folder / "data") / "PASCAL3D+_release1.1"
    return prep_data.run("pascal3d", root, folder / "cache", PrepConfig(), splits=["train"]).paths[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cache",
        type=Path,
        nargs="?",
        help="a cache file, its first samples are read; default: synthetic cars",
    )
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = options.cache or synthetic_cars(folder, options.samples)
        file = stack.enter_context(CacheFile(path))
        made = samples(file, options.samples)
        height, width = file.image_size
        print(
            f"{measure.machine('cpu')}, {platform.processor() or ''} h5py {h5py.__version__}, Pillow"
            f" {PIL.__version__}; {len(made)} samples of {height} x {width}"
        )
        batches = np.array_split(np.random.default_rng(0).permutation(len(made)), -(-len(made) // 8))
        loose = folder / "loose"
        write_loose(loose, made)
        readers: dict[str, Callable[[int], Any]] = {"loose": lambda i: read_loose(loose, made[i].name)}
        sizes = {"loose": sum(path.stat().st_size for path in loose.iterdir())}
        jpegs = sum(path.stat().st_size for path in loose.glob("*.JPEG"))
        for compression in ("none", "lzf", "gzip"):
            path = write_cache(folder / compression / f"{file.category}.h5", file, made, compression)
            with h5py.File(path) as written:
                cads = sum(
                    written[f"cad/{k}/{part}"].nbytes
                    for k in written["cad"]
                    for part in ("vertices", "faces")
                )
            sizes[compression] = path.stat().st_size - cads
            readers[compression] = SampleDataset([path]).__getitem__
        seconds = {
            name: measure.seconds(
                lambda read=read: [default_collate([read(int(i)) for i in batch]) for batch in batches],
                options.repeats,
            )
            for name, read in readers.items()
        }
        print(f"JPEGs alone: {jpegs / len(made) / 1e3:.1f} kB a sample")
        for name, (wall, processor) in seconds.items():
            print(
                f"{name:6} {sizes[name] / len(made) / 1e3:8.1f} kB, {sizes[name] / sizes['loose']:5.2f} x;"
                f" {len(made) / processor:7.0f} samples a processor second,"
                f" {seconds['loose'][1] / processor:5.2f} x;"
                f" {len(made) / wall:7.0f} a second, {seconds['loose'][0] / wall:5.2f} x"
            )


if __name__ == "__main__":
    main()
