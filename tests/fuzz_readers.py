"""Damages the files of small datasets, one at a time, and has the readers prepare them.

    python tests/fuzz_readers.py --cases 100000 --processes 2
    python tests/fuzz_readers.py --only 4711          one case again, with what the readers said

Every case takes one file of one dataset (a list, a table, an .off, .mat, .npz or a photo), flips, cuts, splices
or replaces bytes of it, puts absurd values into its fields, or a link or a pipe in its place. What may come out:
samples that are sound, the readers' own counted reasons, one ValueError. What may not: another error, a crash,
5 seconds of computing, 1 GB of memory, an array as large as a header claims, a program started, an object
unpickled, a file opened outside the dataset. Exits with 1 and names the cases where any of these happened.
"""

import argparse
import collections
import contextlib
import faulthandler
import io
import json
import math
import os
import re
import resource
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from ntdm import config
from ntdm.cache import Sample
from ntdm.data_prep import nemo, occluded_pascal3d, ood_cv, pascal3d
from ntdm.data_prep.annotation import SampleError
from ntdm.data_prep.prepare import FAULTS
from ntdm.data_prep.samples import Listing, make_samples

raw = runpy.run_path(str(Path(__file__).with_name("raw_trees.py")))

CONFIG = config.PrepConfig(image_size=(16, 24), scale=0.1, objects="all")
SECONDS, BYTES = 5.0, 2**30  # of processor time; beyond what the process has before the first case
WAITING = 300  # seconds, whatever it waits for
REASONS = FAULTS | {
    "no_object", "other_class", "no_pose", "distance_not_positive", "no_cad_index", "no_bbox",
    "elevation_out_of_range", "listed_twice",
}  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 127, 255, 256, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**53, 1e-9, 1e-300, 5e-324, 0.3, 1e5, 1e30,
    1e308, -1e308, math.nan, math.inf, -math.inf,
)  # fmt: skip
WORDS = (
    "", "nan", "inf", "-inf", "1e308", "-1", "1e-9", "99999999999999999999", "9" * 5000, "0x10", "1_0", "../../outside",
    "/etc/passwd", "..", "a" * 5000, "\x00", "\x1b[2J", "é", "\ufeff", '"', ",", "3", "0", "n0_0", "a/../../b",
)  # fmt: skip
SUFFIXES = {
    ".off": "off", ".mat": "mat", ".npz": "npz", ".csv": "csv", ".txt": "list", ".JPEG": "photo", ".jpg": "photo",
}  # fmt: skip


class Opener:
    """What a pickle could do when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return (os.mkdir, ("pickle_was_run",))


# ---- the datasets


def write_trees(folder: Path) -> dict[str, Callable[[], object]]:
    """Every packaging in small, below `folder`; for each the call that prepares it."""
    photo, record, annotated = raw["write_photo"], raw["write_record"], raw["annotated"]
    base = raw["write_pascal3d"](folder / "pascal3d", train=2, val=0)
    two = [annotated(), annotated({"px": 30.0}, bbox=np.array([[5.7, 30.2, 50.0, 70.9]]))]
    record(base / "Annotations" / "car_imagenet" / "n0_1.mat", two)
    photo(base / "Images" / "car_pascal" / "2008_000001.jpg", seed=7)
    record(base / "Annotations" / "car_pascal" / "2008_000001.mat", two)
    voc = base / "PASCAL" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "car_train.txt"
    voc.parent.mkdir(parents=True)
    voc.write_text("2008_000001  1\n2008_000002 -1\n")

    old = folder / "pascal3d_1.0"
    shutil.copytree(base / "Images", old / "Images")
    shutil.copytree(base / "Annotations", old / "Annotations")
    shutil.copytree(base / "Image_sets", old / "Image_sets")
    corners = np.array([(x, y, z) for x in (-0.1, 0.1) for y in (-0.3, 0.3) for z in (-0.1, 0.1)])
    raw["write_mat_cads"](old / "CAD" / "car.mat", [(corners, np.uint8([[1, 2, 3], [6, 7, 8]]))] * 2)

    occluded = folder / "occluded"
    photo(occluded / "images" / "carFGL2_BGL2" / "n0_0.JPEG")
    masks = {"mask": np.full(raw["PHOTO_SIZE"], 230, np.uint8), "occluder_mask": np.eye(80, 100, dtype=bool)}
    _npz(occluded / "annotations" / "carFGL2_BGL2" / "n0_0.npz", masks | {"category": "car"})
    _text(occluded / "lists" / "carFGL2_BGL2.txt", "n0_0.JPEG")

    columns = "source,cls_name,im_name,object,azimuth,elevation,inplane_rotation,distance,left,upper,right,lower,im_path"
    rows = ["pascal,car,2008_000001,0,40,10,-5,6,20,25,80,60,images/2008_000001.jpg"]
    rows += ["collection,car,web,0,40,10,-5,6,20,25,80,60,images/web.jpg"]
    _text(folder / "tables" / "nuisances" / "pose" / "pose_bias.csv", "\n".join([columns, *rows]))
    for name in ("2008_000001", "web"):
        photo(folder / "tables" / "nuisances" / "pose" / "images" / f"{name}.jpg")

    rows = ["imgs,labels,azimuth,elevation,theta,distance", "collection_car_web_0.jpg,car,40,10,-5,6"]
    _text(folder / "crops" / "nuisances" / "weather" / "labels.csv", "\n".join(rows))
    photo(folder / "crops" / "nuisances" / "weather" / "Images" / "car" / "collection_car_web_0.jpg")

    lists = folder / "lists"
    _text(lists / "lists" / "TrainSet.txt", "n0_0\n2008_000001\n")
    _text(lists / "lists" / "car_shape.txt", "a 1\n")
    _text(lists / "lists" / "car_all.txt", "a 0\na 1\n")
    photo(lists / "images" / "car" / "a.JPEG")
    record(lists / "annotations" / "car" / "a.mat", two)

    pose = {"azimuth": 5.3, "elevation": 0.2, "theta": -0.1, "distance": 6.0}
    camera = {"principal": np.array([52.25, 38.5]), "bbox": np.array([20.5, 25, 80, 60]), "width": 100, "height": 80}
    current = pose | camera | {
        "px": 52.25, "py": 38.5, "resize_rate": 1.0, "box": np.float32([0, 80, 0, 100, 80, 100]), "focal": 1,
        "padding_params": np.zeros(6, int), "true_cad_index": 2, "viewport": 3000, "amodal_mask": np.array(None),
        "occ_mask": np.eye(80, 100, dtype=np.uint8),
    }  # fmt: skip
    for name, folder_name, fields in (
        ("n0_0_00", "car", current),
        ("n0_1", "car", pose | camera | {"cad_index": np.uint8(1)}),
        ("n0_0_00", "carFGL1_BGL1", current),
    ):
        photo(folder / "nemo" / "val" / "images" / folder_name / f"{name}.JPEG")
        _npz(folder / "nemo" / "val" / "annotations" / folder_name / f"{name}.npz", fields)
    _text(folder / "nemo" / "val" / "lists" / "car" / "mesh01.txt", "n0_0_00.JPEG\nn0_1.JPEG\n")

    challenge = folder / "challenge"
    photo(challenge / "phase-1" / "nuisances" / "shape" / "images" / "pascal_car_2008_000001_1.JPEG")
    _npz(challenge / "phase-1" / "nuisances" / "shape" / "annotations" / "pascal_car_2008_000001_1.npz", pose)
    photo(challenge / "train" / "processed" / "images" / "n0_0_00.jpg")
    _npz(challenge / "train" / "processed" / "annotations" / "n0_0_00.npz", pose | {"cad_index": 1})
    _text(challenge / "train" / "car.txt", "n0_0_00.jpg\n")

    out = folder / "cache"
    return {
        "pascal3d": lambda: pascal3d.prepare(base, out, CONFIG, splits=["train", "voc_train"]),
        "pascal3d_1.0": lambda: pascal3d.prepare(old, out, CONFIG, splits=["train"]),
        "occluded": lambda: occluded_pascal3d.prepare(occluded, out, CONFIG, pascal3d=base),
        "nemo": lambda: nemo.prepare(folder / "nemo", out, CONFIG, pascal3d=base),
        **{
            name: lambda name=name: ood_cv.prepare(folder / name, out, CONFIG, pascal3d=base)
            for name in ("tables", "crops", "lists", "challenge")
        },
    }


def _npz(path: Path, fields: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **fields)


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# ---- the damage


def damage(rng: np.random.Generator, path: Path, kin: list[Path], outside: Path) -> str:
    """Damage one file in place, `kin` being files of its kind to splice from; returns what was done."""
    if rng.random() < 0.01:
        return _replaced(rng, path, outside)
    data, kind = path.read_bytes(), SUFFIXES[path.suffix]
    special = {
        "npz": _npz_fields, "mat": _mat_values, "photo": _photo_of_another_kind,
        "off": _words, "csv": _words, "list": _words,
    }[kind]  # fmt: skip
    words = []
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if rng.random() < 0.4:
            with contextlib.suppress(Exception):  # what was damaged before may be beyond this one
                data, done = special(rng, data)
                words.append(done)
            continue
        data, done = _bytes(rng, data, kin)
        words.append(done)
    path.write_bytes(data)
    return ", ".join(words)


def _replaced(rng: np.random.Generator, path: Path, outside: Path) -> str:
    path.unlink()
    what = rng.choice(["link out", "link to itself", "pipe", "folder", "nothing", "empty"])
    if what == "link out":
        path.symlink_to(outside)
    elif what == "link to itself":
        path.symlink_to(path)
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "empty":
        path.write_bytes(b"")
    return str(what)


def _bytes(rng: np.random.Generator, data: bytes, kin: list[Path]) -> tuple[bytes, str]:
    content = bytearray(data)
    at, end = sorted(int(n) for n in rng.integers(0, len(content) + 1, 2))
    what = rng.choice(["flip", "flip", "number", "number", "cut", "delete", "repeat", "splice", "noise"])
    if what == "flip" and content:
        for place in rng.integers(0, len(content), rng.choice([1, 1, 2, 8])):
            content[place] ^= 1 << int(rng.integers(8))
    elif what == "number":
        number = NUMBERS[rng.integers(len(NUMBERS))]
        at -= at % int(rng.choice([1, 4, 8]))
        form = str(rng.choice(["<d", ">d", "<f", "<I", ">I", "<H", ">H", "<Q"]))
        whole = int(number) % 2 ** (8 * struct.calcsize(form)) if math.isfinite(number) else 0
        with np.errstate(over="ignore"):
            single = float(np.float32(number))
        packed = struct.pack(form, {"d": number, "f": single}.get(form[1], whole))
        content[at : at + len(packed)] = packed
    elif what == "cut":
        del content[at:]
    elif what == "delete":
        del content[at:end]
    elif what == "repeat":
        content[end:end] = content[at:end] * int(rng.choice([1, 1, 3, 50]))
    elif what == "splice":
        other = kin[rng.integers(len(kin))].read_bytes()
        content[at:end] = other[at:end]
    else:
        content[at:at] = rng.bytes(int(rng.integers(1, 64)))
    return bytes(content[: 2**20]), str(what)


def _words(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    parts = re.split(rb"([\s,]+)", data)
    place, word = int(rng.integers(len(parts))), WORDS[rng.integers(len(WORDS))]
    parts[place] = word.encode()
    return b"".join(parts), f"word {word[:20]!r}"


def _npz_fields(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Absurd values, shapes and objects in a sound archive; or damage within a member, its checksum right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = list(members)[rng.integers(len(members))]
    if rng.random() < 0.4:
        members[name], done = _bytes(rng, members[name], []) if rng.random() < 0.9 else (b"", "emptied")
    elif rng.random() < 0.3:
        shape = tuple(int(n) for n in rng.choice([0, 1, 3, 10**5, 2**31, 2**62, -1], rng.integers(0, 4)))
        kind = str(rng.choice(["<f8", "|u1", "|b1", "|O", "<U0", "|S0", "<U1000000", "|V8", "<M8[s]", "<c16"]))
        header = {"descr": kind, "fortran_order": bool(rng.integers(2)), "shape": shape}
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, header)
        members[name], done = stream.getvalue() + rng.bytes(int(rng.choice([0, 8, 64]))), f"claims {kind} {shape}"
    else:
        value: object = NUMBERS[rng.integers(len(NUMBERS))]
        if rng.random() < 0.3:
            choice = [np.array(Opener(), object), np.array([None, Opener()], object), "car", np.full(6, value), b"x"]
            value = choice[rng.integers(len(choice))]
        stream = io.BytesIO()
        np.lib.format.write_array(stream, np.asanyarray(value))
        members[name], done = stream.getvalue(), f"{name} = {value!r}"[:80]
    stream = io.BytesIO()
    method = int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
    with zipfile.ZipFile(stream, "w", method) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return stream.getvalue(), done


def _mat_values(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Absurd values in a sound file; or damage within a variable that is packed anew."""
    if rng.random() < 0.3:
        body, done = _bytes(rng, data[128:], []) if rng.random() < 0.9 else (bytes(2**20), "zeros")
        packed = zlib.compress(body)
        return data[:128] + struct.pack("<2I", 15, len(packed)) + packed, f"packed: {done}"
    variables = {k: v for k, v in scipy.io.loadmat(io.BytesIO(data)).items() if not k.startswith("__")}
    name = next(iter(variables))
    place, field = variables[name], name
    while isinstance(place, np.ndarray) and place.dtype.names and place.size:
        element = place.reshape(-1)[rng.integers(place.size)]
        field = str(rng.choice(place.dtype.names))
        parent, place = element, element[field]
    number = NUMBERS[rng.integers(len(NUMBERS))]
    shapes: list[object] = [
        np.array([[number]]), np.array([[number]]), np.full((1, 4), number), np.zeros((0, 0)), "text",
        np.full((2, 2, 2), number), np.uint8([[7]]), np.array([[1 + 2j]]), np.array([["cell"]], object), {"a": 1.0},
    ]  # fmt: skip
    parent[field] = shapes[rng.integers(len(shapes))]
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, do_compression=bool(rng.integers(2)))
    return stream.getvalue(), f"{field} = {parent[field]!r}"[:80]


def _photo_of_another_kind(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """The photo in another mode and format, or with another size in its header."""
    if rng.random() < 0.3:
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        if at > 0:
            size = struct.pack(">2H", *(int(n) for n in rng.choice([0, 1, 8000, 65535], 2)))
            return data[: at + 5] + size + data[at + 9 :], "another size in the header"
    with Image.open(io.BytesIO(data)) as image:
        mode = str(rng.choice(["L", "CMYK", "RGBA", "P", "1", "I;16", "LA", "RGB"]))
        image = image.convert(mode)
    form = str(rng.choice(["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "EPS"]))
    stream = io.BytesIO()
    image.save(stream, form, **({"progressive": True} if form == "JPEG" and rng.integers(2) else {}))
    return stream.getvalue(), f"{form} {mode}"


# ---- the cases


class Watch:
    """Hears from Python what the readers do; a list of what they must not."""

    def __init__(self, root: Path, outside: Path) -> None:
        self.root, self.outside, self.seen, self.on = str(root), str(outside), [], False
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(args[0]))
            ours = path.startswith(self.root) and not path.startswith(self.outside)
            if not ours and not path.startswith((sys.prefix, sys.base_prefix)) and not path.endswith((".py", ".pyc")):
                self.seen.append(f"opened {path}")
        elif event in ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork"):
            self.seen.append(event)


def sound(sample: Sample) -> str | None:
    """What is wrong with a sample, or None."""
    numbers = [*sample.viewpoint, sample.focal, *sample.principal_point, *sample.bbox]
    if not all(map(math.isfinite, numbers)) or sample.focal <= 0 or not 0.5 <= sample.viewpoint[3]:
        return f"sample with viewpoint {sample.viewpoint}, focal {sample.focal}, bbox {sample.bbox}"
    if sample.images.shape != (*CONFIG.image_size, 3) or sample.images.dtype != np.uint8:
        return f"sample with images {sample.images.dtype} {sample.images.shape}"
    if not sample.name.isprintable() or "/" in sample.name:
        return f"sample named {sample.name!r}"
    return None


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and those it was raised in the wake of, hidden ones too."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__context__
    return chain


def run_cases(args: argparse.Namespace, indices: range) -> None:
    """Run these cases here; prints a line of JSON for each finding and one with the counts."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        _run_cases(args, indices, folder.resolve())
    finally:
        shutil.rmtree(folder)


def _run_cases(args: argparse.Namespace, indices: range, folder: Path) -> None:
    progress = open(args.progress, "w") if args.progress else None  # noqa: SIM115
    outside = folder / "outside"
    outside.write_text("secret")
    os.chdir(folder)
    calls = write_trees(folder / "trees")
    files: dict[str, list[tuple[str, Path]]] = collections.defaultdict(list)
    for tree in calls:
        for path in sorted((folder / "trees" / tree).rglob("*")):
            if path.suffix in SUFFIXES:
                files[SUFFIXES[path.suffix]].append((tree, path))
    kinds = sorted(files)
    results: list[Sample | SampleError] = []
    stem = ""

    def collect(listings: list[Listing], *_: object, **__: object) -> object:
        for listing in listings:
            assert set(listing.dropped) <= REASONS, listing.dropped
            # Of the photos that a damaged file is about, or of the first ones where it is about all.
            about = [i for i in listing.items if stem in (i.name, i.photo, i.annotation.stem)]
            for item in about or listing.items[:2]:
                results.extend(make_samples(listing, item, CONFIG))
        return argparse.Namespace(files=())

    for module in (pascal3d, occluded_pascal3d, nemo, ood_cv):
        module.prepare_listings = collect
    watch, outcomes = Watch(folder / "trees", outside), collections.Counter()

    def found(index: int, text: str, done: str) -> None:
        print(json.dumps({"case": index, "finding": text, "damage": done}), flush=True)

    for late in (signal.SIGPROF, signal.SIGALRM):
        faulthandler.register(late, chain=True)
    quiet = sys.stderr if args.only is not None else open(os.devnull, "w")  # noqa: SIM115
    for tree, call in calls.items():  # sound trees give samples, and load whatever is loaded late
        results.clear()
        with contextlib.redirect_stderr(quiet):
            call()
        assert results and all(isinstance(result, Sample) for result in results), (tree, results)
    Image.init()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
    for index in indices:
        rng = np.random.default_rng([args.seed, index])
        kind = kinds[rng.integers(len(kinds))]
        tree, path = files[kind][rng.integers(len(files[kind]))]
        before, stem = path.read_bytes(), path.stem
        done = f"{path.relative_to(folder / 'trees')}: " + damage(rng, path, [p for _, p in files[kind]], outside)
        if progress:
            progress.seek(0)
            progress.write(json.dumps({"case": index, "damage": done[:200]}).ljust(300))
            progress.flush()
        results.clear()
        raised: BaseException | None = None
        signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)  # ends the process; the parent goes on behind the case
        signal.alarm(WAITING)
        start, watch.on = time.process_time(), True
        try:
            with contextlib.redirect_stderr(quiet):
                calls[tree]()
        except ValueError as error:
            raised = error
            if args.only is not None:
                print(error)
        except Exception as error:
            raised = error
            found(index, f"{type(error).__name__}: {str(error)[:200]}", done)
        watch.on, seconds = False, time.process_time() - start
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        errors = [result for result in results if isinstance(result, SampleError)]
        for error in [raised, *errors]:
            if any(isinstance(cause, MemoryError) for cause in causes(error)):
                found(index, f"MemoryError behind {str(error)[:200]}", done)
        for error in errors:
            if error.reason not in REASONS or "\n" in error.text:
                found(index, f"reason {error.reason}: {error.text}", done)
        for result in results:
            fault = sound(result) if isinstance(result, Sample) else None
            if fault:
                found(index, fault, done)
        if seconds > SECONDS:
            found(index, f"took {seconds:.1f} s", done)
        for what in watch.seen:
            found(index, what, done)
        watch.seen.clear()
        if Path("pickle_was_run").exists():
            found(index, "a pickle was run", done)
            os.rmdir("pickle_was_run")
        outcome = "refused" if raised else "dropped" if errors else "samples" if results else "nothing"
        outcomes[f"{kind} {outcome}"] += 1
        if args.only is not None:
            print(done, outcome, *(f"{error.reason}: {error.text}" for error in errors), sep="\n")
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > BYTES:
        found(-1, f"{peak / 2**20:.0f} MB of memory at most", "")
    print(json.dumps({"outcomes": outcomes, "peak": peak}), flush=True)


def run_part(args: argparse.Namespace, first: int, stop: int) -> tuple[list[dict], collections.Counter, int]:
    """Run cases in processes of their own, another after each crash; findings, outcomes, peak memory."""
    findings: list[dict] = []
    outcomes: collections.Counter = collections.Counter()
    peak = 0
    with tempfile.NamedTemporaryFile("r") as progress:
        while first < stop:
            command = [sys.executable, __file__, "--seed", str(args.seed), "--part", str(first), str(stop)]
            done = subprocess.run(
                [*command, "--progress", progress.name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            findings += [line for line in lines if "finding" in line]
            if done.returncode == 0:
                outcomes.update(lines[-1]["outcomes"])
                peak = max(peak, lines[-1]["peak"])
                break
            progress.seek(0)
            last = progress.read()
            if not last:
                raise SystemExit(done.stderr)
            case = json.loads(last)
            findings.append(case | {"finding": f"the process ended with {done.returncode}: {done.stderr[-600:]}"})
            outcomes["crash (cases before it in its process are not counted)"] += 1
            first = case["case"] + 1
    return findings, outcomes, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", type=int, help="this case alone")
    parser.add_argument("--part", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--progress", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part or args.only is not None:
        run_cases(args, range(*args.part) if args.part else range(args.only, args.only + 1))
        return
    from concurrent.futures import ThreadPoolExecutor

    # Parts of some thousands: a crash costs the counts of its own part alone.
    starts = range(0, args.cases, 2500)
    with ThreadPoolExecutor(args.processes) as pool:
        parts = pool.map(lambda start: run_part(args, start, min(start + 2500, args.cases)), starts)
        findings, outcomes, peak = [], collections.Counter(), 0
        for number, part in enumerate(parts):
            findings += part[0]
            outcomes.update(part[1])
            peak = max(peak, part[2])
            for finding in part[0]:
                print(json.dumps(finding), flush=True)
            print(f"{min(2500 * (number + 1), args.cases)} cases", file=sys.stderr, flush=True)
    for kind, count in sorted(outcomes.items()):
        print(f"{kind:20} {count:7d}")
    print(f"{args.cases} cases, {len(findings)} findings, at most {peak / 2**20:.0f} MB")
    raise SystemExit(1 if findings else 0)


if __name__ == "__main__":
    main()
