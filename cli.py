"""The `ntdm` command: parse, call one function, print the path written.

Stages are imported inside the commands, so that `ntdm --help` and `ntdm report` do not wait for torch.
Exit codes: 0 done, 1 cannot be done (one sentence on stderr says why), 2 bad arguments, 130 interrupted,
143 terminated.
"""

import contextlib
import dataclasses
import errno
import io
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from ntdm import cli_options
from ntdm.cli_options import (
    CacheOption,
    CategoriesOption,
    Compression,
    ConfigOption,
    CpuOption,
    Dataset,
    Device,
    DeviceOption,
    Format,
    OverwriteOption,
    Predictions,
    RunOption,
    SeedOption,
    SetOption,
    ShapesOption,
    SplitsOption,
    TestCacheOption,
    TrainOnOption,
)
from ntdm.config import protocol, reading
from ntdm.config.stages import InferConfig, PrepConfig, ShapeConfig, SyntheticConfig
from ntdm.io.progress import print_any_text, say
from ntdm.ops import build

SHARED = ("train", "evaluate")  # commands that torchrun's processes do together
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Commands(TyperGroup):
    """What a user can put right becomes one sentence and an exit code; anything else keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit that removes half-written files
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is being obeyed
            say("interrupted; the same command resumes", error=True)
            raise typer.Exit(130) from None
        except (ValueError, OSError, MemoryError, build.BuildError) as error:
            if ctx.params.get("traceback"):
                raise
            say(f"ntdm: {_sentence(error)}", error=True)
            raise typer.Exit(1) from None


class TrainCommand(TyperCommand):
    """Its help names the methods, whose modules import torch: only when it is shown."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from ntdm.methods.registry import METHODS

        for option in self.params:
            if isinstance(option, TyperOption) and option.name == "method":
                option.help = f"One of {', '.join(METHODS)}."
        super().format_help(ctx, formatter)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return (
            f"no space left on the disk ({error.filename or error}): free some and run the same command again"
        )
    if isinstance(error, MemoryError):
        text = "not enough memory: fewer --workers, smaller images or batches; what is whole is kept"
        return f"{text} ({error})" if str(error) else text
    if isinstance(error, BrokenPipeError):
        return "what reads this command's output ended before it did: the rest was not done"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or repr(error)


# The project folder: what one command writes by default, the next one reads.
CACHE, SHAPES, RUNS = Path("cache"), Path("shapes"), Path("runs")

app = typer.Typer(cls=Commands, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def main_options(
    context: typer.Context,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error was raised.")] = False,
) -> None:
    """Neural Textured Deformable Meshes: pose, shape, masks and class of an object from one photo."""
    print_any_text()
    if os.environ.get("WORLD_SIZE", "1") != "1" and context.invoked_subcommand not in SHARED:
        named = f"{' and '.join(SHARED)}: start {context.invoked_subcommand} without it"
        raise ValueError(f"torchrun shares the work of {named}")
    if os.environ.get("RANK", "0") != "0":  # the first process prints for all
        context.with_resource(contextlib.redirect_stdout(io.StringIO()))


@app.command()
def doctor() -> None:
    """Say what is installed, which operators run, what is missing and how to get it.

    \b
    Example: ntdm doctor
    """
    from ntdm import doctor

    print(doctor.report())


@app.command()
def make_data(
    out: Path,
    categories: Annotated[list[str] | None, typer.Option(help="Repeat, or separate by commas.")] = None,
    cad_root: Annotated[
        Path | None, typer.Option(help="PASCAL3D+ root whose CADs are shown. Default: built-in models.")
    ] = None,
    viewpoints: Annotated[
        Path | None, typer.Option(help="Folder of train.csv and val.csv. Default: a broad prior.")
    ] = None,
    settings: SetOption = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes, 0: one a CPU; the files do not depend on it.")
    ] = 0,
    seed: SeedOption = None,
    device: CpuOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """Write synthetic PASCAL3D+, Occluded PASCAL3D+ and OOD-CV trees in their raw formats.

    Default categories: car, motorbike and sofa; with --cad-root all twelve.

    \b
    Example: ntdm make-data data --categories aeroplane,car --set train_per_category=100
    Example: ntdm make-data data --cad-root PASCAL3D+_release1.1 --viewpoints lists
    """
    from ntdm.data_prep import make_data

    config = SyntheticConfig() if cad_root is None else SyntheticConfig(categories=protocol.CATEGORIES)
    config = reading.override(config, settings, seed)
    if categories:
        config = dataclasses.replace(config, categories=tuple(cli_options.split(categories)))
    sources = {"cad_root": cad_root, "viewpoints": viewpoints}
    print(make_data.make_data(config, out, **sources, workers=workers, overwrite=overwrite))


@app.command()
def prep_data(
    dataset: Dataset,
    root: Annotated[Path, typer.Option(help="Folder of the raw dataset.")],
    cache: CacheOption = CACHE,
    pascal3d: Annotated[
        Path | None, typer.Option(help="PASCAL3D+ root, where poses and CADs come from for the others.")
    ] = None,
    image_size: Annotated[tuple[int, int], typer.Option(metavar="H W")] = PrepConfig.image_size,
    compression: Annotated[
        Compression,
        typer.Option(help="Of photos and masks: none reads fastest, gzip takes a sixth of its space."),
    ] = Compression.none,
    split: Annotated[list[str] | None, typer.Option(help="Repeat, or separate by commas.")] = None,
    categories: CategoriesOption = None,
    settings: SetOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the files do not depend on it.")] = 1,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail at the first damaged or missing file.")
    ] = False,
    seed: SeedOption = None,
    device: CpuOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """Cut object-centred crops with exact cameras and masks out of a raw dataset, into cache files.

    \b
    Example: ntdm prep-data pascal3d --root PASCAL3D+_release1.1 --cache cache --image-size 128 128
    """
    from ntdm.data_prep import prep_data

    if pascal3d is None and dataset is not Dataset.pascal3d:
        raise typer.BadParameter(
            f"{dataset} has no CADs of its own: name the PASCAL3D+ root", param_hint="--pascal3d"
        )
    preparation = PrepConfig(image_size=image_size, compression=compression.value)
    report = prep_data.run(
        dataset, root, cache, reading.override(preparation, settings), pascal3d=pascal3d,
        splits=cli_options.split(split) or None, categories=cli_options.split(categories) or None,
        workers=workers, strict=strict, overwrite=overwrite,
    )  # fmt: skip
    say(report.table())
    print(cache)


@app.command()
def inspect(
    cache: Annotated[list[Path], typer.Argument(exists=True, help="Folders of cache files, or files.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("inspected"),
) -> None:
    """Show what is in cache files: contact sheets, viewpoint histograms, samples by CAD and dropped ones.

    \b
    Example: ntdm inspect cache --out inspected
    """
    from ntdm import inspect_cache
    from ntdm.reports import diagnostics

    print(inspect_cache.run(cache, out, diagnostics.draw_viewpoints))
    print(out)


@app.command()
def fit_shapes(
    out: Annotated[Path, typer.Option(help="Folder for the shapes.")] = SHAPES,
    cache: Annotated[
        Path | None,
        typer.Option(help="Cache folder: the CADs, and where latents go.", show_default="cache"),
    ] = None,
    cad_root: Annotated[
        Path | None, typer.Option(help="Instead of --cache, a folder with CAD/<category>/NN.off.")
    ] = None,
    categories: CategoriesOption = None,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Keep the shapes in OUT; find latents for these CADs.")
    ] = False,
    config: ConfigOption = "tiny",
    settings: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """Fit the deformable mesh of every category to its CADs; write shapes, and latents into the caches.

    \b
    Example: ntdm fit-shapes --cache cache --out shapes
    """
    from ntdm import fit_shapes
    from ntdm.data_prep.raw import cad
    from ntdm.reports import diagnostics

    if cad_root is None:
        cache = cache or CACHE
    elif cache is not None:
        raise typer.BadParameter("name either --cache or --cad-root")
    shape_config = reading.resolve(ShapeConfig, config, settings, seed)
    folder = fit_shapes.run(
        shape_config, cache, out, cli_options.split(categories) or None, overwrite,
        cads=None if cad_root is None else cad.find_cads(cad_root), frozen=freeze,
        plot=diagnostics.draw_convergence,
        device=fit_shapes.default_device() if device is Device.auto else cli_options.resolved(device),
    )  # fmt: skip
    print(folder)


@app.command(cls=TrainCommand)
def train(
    cache: CacheOption = CACHE,
    shapes: ShapesOption = SHAPES,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/<method>")] = None,
    method: Annotated[str | None, typer.Option(help="See --help.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the run, in tables. Default: the method.")] = None,
    train_on: TrainOnOption = None,
    categories: CategoriesOption = None,
    config: ConfigOption = "tiny",
    settings: SetOption = None,
    watch_every: Annotated[
        int, typer.Option(min=0, help="Epochs between two sheets of what the model sees; 0: none.")
    ] = 5,
    validate_on: Annotated[
        str | None, typer.Option(help="DATASET/SPLIT of which a few photos are tried with every sheet.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Refuse to start from nothing; an interrupted run goes on anyway."),
    ] = False,
    seed: SeedOption = None,
    device: DeviceOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """Train the backbone and the neural textures, or a baseline.

    \b
    Example: ntdm train --cache cache --shapes shapes --out runs/ntdm --set epochs=20
    Example: ntdm train --method nemo --cache cache --shapes shapes --out runs/nemo
    """
    from ntdm import train
    from ntdm.methods.registry import configure
    from ntdm.training import monitor

    training = configure(config, settings, seed, method)
    names, validation = cli_options.split(categories) or None, None
    if validate_on is not None:
        keys = cli_options.keys([validate_on], "--validate-on")
        if len(keys) != 1 or watch_every == 0:
            raise typer.BadParameter(
                "want one DATASET/SPLIT, and --watch-every above 0", param_hint="--validate-on"
            )
        inference = reading.resolve(InferConfig, config, None, seed)
        validation = monitor.Validation.open(cache, keys[0], names, inference)
    folder = train.run(
        training, cache, shapes, out or RUNS / training.method,
        train_on=tuple(cli_options.keys(train_on, "--train-on") or ["pascal3d/train"]), categories=names,
        resume=resume, overwrite=overwrite, device=cli_options.resolved(device), name=name,
        watch_every=watch_every, validate=validation,
    )  # fmt: skip
    print(folder)


@app.command()
def infer(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...")],
    run: RunOption,
    out: Annotated[Path, typer.Option(help="Folder for JSON, masks, mesh and overlay.")],
    bbox: Annotated[
        str | None,
        typer.Option(metavar="x0,y0,x1,y1", help="The object's box, in pixels. Default: the image."),
    ] = None,
    config: ConfigOption = "tiny",
    settings: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """Find pose, shape, masks and class of the object in each photo.

    \b
    Example: ntdm infer photo.jpg --run runs/ntdm --out inferred --bbox 40,25,310,190
    """
    inference, box = reading.resolve(InferConfig, config, settings, seed), cli_options.box(bbox)
    from ntdm import infer

    where = cli_options.resolved(device)
    print(infer.run(images, run, out, box, inference, overwrite=overwrite, device=where))


@app.command()
def evaluate(
    run: RunOption = RUNS / "ntdm",
    cache: TestCacheOption = CACHE,
    splits: SplitsOption = None,
    config: ConfigOption = "tiny",
    settings: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """Predict every sample of the test splits, then score; both resume where they were interrupted.

    \b
    Example: ntdm evaluate --run runs/ntdm --cache cache --splits pascal3d/val
    """
    from ntdm import evaluate

    inference, where = reading.resolve(InferConfig, config, settings, seed), cli_options.resolved(device)
    keys = cli_options.split_keys(cache, splits)
    for path in evaluate.run(run, cache, keys, inference, overwrite=overwrite, device=where):
        print(path)


@app.command("import")
def import_predictions(
    form: Annotated[Predictions, typer.Argument(metavar="csv|ood-cv|nemo")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Predictions of one split.")],
    method: Annotated[str, typer.Option(help="Name of the method in the tables.")],
    split: Annotated[str, typer.Option(help="DATASET/SPLIT that was predicted.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; it may hold other splits of the method.")],
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the cache files; its split is the truth.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="The OOD-CV challenge's labels.csv as the truth, without a cache.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Score another program's predictions and make a run of them, for `ntdm report`.

    \b
    Example: ntdm import ood-cv pose.csv --split ood_cv/pose --cache cache --method theirs --out runs/theirs
    Example: ntdm import nemo car.npz bus.npz --split pascal3d/val --cache cache --method NeMo --out runs/nemo
    """
    from ntdm import import_predictions

    keys = cli_options.keys([split], "--split")
    if len(keys) != 1:
        raise typer.BadParameter(f"{split!r}: want one DATASET/SPLIT", param_hint="--split")
    if (cache is None) == (labels is None):
        raise typer.BadParameter("name the truth by --cache or by --labels", param_hint="--cache")
    print(import_predictions.run(form, files, out, method, keys[0], cache, labels, overwrite=overwrite))


@app.command()
def report(
    table: Annotated[int, typer.Option(help="1: occlusion levels, 2: nuisances, 3: ablations.")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Runs, as --runs.")] = None,
    runs: Annotated[list[Path] | None, typer.Option(help="Repeat. Default: every run in ./runs.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the table and its figures.")] = Path("report"),
    published: Annotated[bool, typer.Option(help="Add the rows that papers print.")] = True,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of the cache files: adds pictures of photos and fitted meshes."),
    ] = None,
) -> None:
    """Put the errors of runs into a table: CSV, Markdown, LaTeX, an HTML page, and figures.

    \b
    Example: ntdm report --table 2 --runs runs/ntdm --runs runs/pose-classifier --out report
    Example: ntdm report --table 3 --runs ablations/* --out report
    """
    from ntdm.io.run_folder import find_runs
    from ntdm.reports import tables

    # A shell hands the paths of a pattern on one by one, and the option takes the first only.
    folders = [*(runs or ()), *(more or ())] or find_runs(RUNS)
    pictures = None
    if cache is not None:
        from ntdm.evaluation import sheets

        pictures = partial(sheets.run, folders, cache)
    path = tables.report(table, folders, out, published, pictures)
    print(path.with_suffix(".md").read_text(encoding="utf-8"))
    print(path)


@app.command()
def ablate(
    cache: CacheOption,
    shapes: ShapesOption,
    out: Annotated[Path, typer.Option(help="Folder for the run folders, one an ablation.")],
    splits: Annotated[
        list[str] | None, typer.Option(help="DATASET/SPLIT, repeat or use commas. Default: pascal3d/val.")
    ] = None,
    train_on: TrainOnOption = None,
    categories: CategoriesOption = None,
    config: ConfigOption = "tiny",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="STAGE.KEY=VALUE", help="Override a key of train or infer."),
    ] = None,
    full: Annotated[
        Path | None, typer.Option(help="A finished run of ntdm with this config. Default: it is trained.")
    ] = None,
    seed: SeedOption = None,
    device: DeviceOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """Train and evaluate the runs of Table 3; what is finished is kept, what was interrupted goes on.

    Every folder that it prints is a run, for `ntdm report --table 3`, `ntdm evaluate` and the rest.

    \b
    Example: ntdm ablate --cache cache --shapes shapes --out ablations --set train.epochs=20
    """
    by_stage = cli_options.by_stage(settings, ("train", "infer"))
    from ntdm import ablate
    from ntdm.methods.registry import configure

    training = configure(config, by_stage["train"], seed, "ntdm")
    inference = reading.resolve(InferConfig, config, by_stage["infer"], seed)
    test_keys = cli_options.keys(splits, "--splits") or ["pascal3d/val"]
    train_keys = cli_options.keys(train_on, "--train-on") or ["pascal3d/train"]
    folders = ablate.run(
        training, inference, cache, shapes, out, splits=test_keys, train_on=train_keys,
        categories=cli_options.split(categories) or None, full=full, overwrite=overwrite,
        device=cli_options.resolved(device),
    )  # fmt: skip
    for folder in folders:
        print(folder)
    print(out)


@app.command()
def export(
    form: Annotated[Format, typer.Argument(metavar="coco|bop|ood-cv")],
    cache: TestCacheOption,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    run: Annotated[
        Path | None, typer.Option(help="Run whose predictions are exported. Default: the truth.")
    ] = None,
    splits: SplitsOption = None,
    order: Annotated[
        Path | None, typer.Option(help="ood-cv: the challenge's labels.csv, whose rows and order are taken.")
    ] = None,
) -> None:
    """Write masks or poses, predicted or true, in another tool's format.

    \b
    Example: ntdm export coco --cache cache --run runs/ntdm --splits pascal3d/val --out val.json
    """
    from ntdm import export

    if order is not None and form is not Format.ood_cv:
        raise typer.BadParameter(f"{form} has no order of rows: it belongs to ood-cv", param_hint="--order")
    print(export.run(form, cache, cli_options.split_keys(cache, splits), run, out, order))


@app.command()
def demo(
    out: Path,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes: shows that all runs, not how well.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of every step.")] = 0,
    device: DeviceOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """Everything, on synthetic data: from raw datasets to printed tables, on a CPU. Resumes if interrupted.

    \b
    Example: ntdm demo demo
    """
    from ntdm import demo

    for text in demo.run(out, cli_options.resolved(device), quick=quick, seed=seed, overwrite=overwrite):
        print(text)


main = app
