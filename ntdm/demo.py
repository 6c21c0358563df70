"""`ntdm demo`: every stage on synthetic data, from raw datasets to printed tables.

It stands beside the command line, above the stages, and may import every room.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ntdm import evaluate, fit_shapes, infer, train
from ntdm.config.protocol import NUISANCES, OCCLUSION_LEVELS
from ntdm.config.reading import Config, override
from ntdm.config.stages import InferConfig, PrepConfig, ShapeConfig, SyntheticConfig, TrainConfig
from ntdm.data_prep import make_data, prep_data
from ntdm.data_prep.raw.annotation import object_pose, read_objects
from ntdm.evaluation import sheets
from ntdm.io.progress import say
from ntdm.methods.registry import configure
from ntdm.reports import diagnostics, tables

RAW_FOLDERS = {
    "pascal3d": "PASCAL3D+_release1.1",
    "occluded-pascal3d": "OccludedPASCAL3D",
    "ood-cv": "OOD-CV",
}
SPLITS = (
    "pascal3d/val",
    *(f"occluded_pascal3d/{level}" for level in OCCLUSION_LEVELS),
    *(f"ood_cv/{nuisance}" for nuisance in NUISANCES),
)
QUICK: dict[type, tuple[str, ...]] = {
    SyntheticConfig: ("train_per_category=48", "val_per_category=6", "ood_per_category=3"),
    ShapeConfig: ("steps=60",),
    TrainConfig: ("epochs=4", "batch_size=8"),
    InferConfig: ("steps=5",),
}


def run(out: Path, device: str, *, quick: bool, seed: int, overwrite: bool) -> Iterator[str]:
    """Makes the data, trains NTDM and the classifier, evaluates both; yields the texts to print.

    What `out` holds already is kept or gone on with, as each stage does. `quick` shrinks every stage, to show
    that all runs and not how well. Raises ValueError as the stages.
    """

    def shorter(cls: type) -> tuple[str, ...]:
        return QUICK[cls] if quick else ()

    def configured(default: Config) -> Config:
        return override(default, shorter(type(default)), seed)

    data, cache, shapes = out / "data", out / "cache", out / "shapes"
    say("demo 1/5: synthetic datasets")
    make_data.make_data(configured(SyntheticConfig()), data, overwrite=overwrite)
    say("demo 2/5: cache files")
    pascal3d = data / RAW_FOLDERS["pascal3d"]
    prep = PrepConfig(image_size=(128, 128))
    for dataset, raw in RAW_FOLDERS.items():
        # OOD-CV's training photos are PASCAL3D+'s own.
        splits = ["iid", *NUISANCES] if dataset == "ood-cv" else None
        report = prep_data.run(
            dataset, data / raw, cache, prep, pascal3d=pascal3d, splits=splits, overwrite=overwrite
        )
        say(report.table())
    say("demo 3/5: shapes")
    fit_shapes.run(
        configured(ShapeConfig()), cache, shapes, overwrite=overwrite, plot=diagnostics.draw_convergence
    )
    runs = [out / "runs" / method for method in ("ntdm", "pose-classifier")]
    for folder in runs:
        say(f"demo 4/5: {folder.name}: train, predict, score")
        config = configure("tiny", shorter(TrainConfig), seed, folder.name)
        train.run(config, cache, shapes, folder, overwrite=overwrite, device=device)
        evaluate.run(folder, cache, SPLITS, configured(InferConfig()), overwrite=overwrite, device=device)
    meshes = _infer_examples(pascal3d, runs[0], out / "inferred", configured(InferConfig()), device)
    say("demo 5/5: tables")
    pictures = partial(sheets.run, runs, cache)
    written = [tables.report(table, runs, out / "report", False, pictures) for table in (1, 2)]
    for path in written:
        yield path.with_suffix(".md").read_text(encoding="utf-8")
    yield from map(str, (*written, runs[0] / "sheets" / "pascal3d" / "val.png", *meshes, out))


def _infer_examples(pascal3d: Path, run: Path, out: Path, config: InferConfig, device: str) -> list[Path]:
    """Infer the first test photo of every category, its annotated box given; returns the coloured meshes."""
    for listing in sorted((pascal3d / "Image_sets").glob("*_imagenet_val.txt")):
        folder, name = listing.stem.removesuffix("_val"), listing.read_text(encoding="utf-8").split()[0]
        annotation = pascal3d / "Annotations" / folder / f"{name}.mat"
        x0, y0, x1, y1 = object_pose(read_objects(annotation)[0], str(annotation)).bbox.tolist()
        photo = pascal3d / "Images" / folder / f"{name}.JPEG"
        infer.run([photo], run, out, (x0, y0, x1, y1), config, overwrite=True, device=device)
    return sorted(out.glob("*/mesh.obj"))
