"""Kills `ntdm train` at random moments: does the same command in the end give an undisturbed run's weights?

    python benchmarks/kill_train.py --kills 20

Makes a small dataset, caches and shapes, and trains on them once, undisturbed. Then starts the same command
into another folder, ends it with SIGKILL at a random moment, starts it again, and so on; after the last kill
it runs to its end. The weights have to be the same bit for bit, the rows of train.csv the same but for the
seconds, and nothing half-written may be left. Exits with 1 where any of these fails. On a CPU.
"""

import argparse
import csv
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NTDM = [sys.executable, "-c", "from ntdm.cli import main; main()"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--method", default="ntdm")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-train-"))
    try:
        failed = run(args, folder)
    finally:
        shutil.rmtree(folder)
    raise SystemExit(failed)


def run(args: argparse.Namespace, folder: Path) -> bool:
    """Whether anything differed."""
    data, cache, shapes = folder / "data", folder / "cache", folder / "shapes"
    sizes = ("train_per_category=24", "val_per_category=1", "ood_per_category=1", "iid_per_category=1")
    _ntdm("make-data", data, "--categories", "car,sofa", *_settings(*sizes, "image_size=80"))
    pascal3d = data / "PASCAL3D+_release1.1"
    _ntdm("prep-data", "pascal3d", "--root", pascal3d, "--cache", cache, "--image-size", "64", "64")
    _ntdm("fit-shapes", "--cache", cache, "--out", shapes, *_settings("steps=20"))
    train = ("train", "--cache", cache, "--shapes", shapes, "--method", args.method, "--device", "cpu")
    train += ("--watch-every", "7", *_settings(f"epochs={args.epochs}", "batch_size=8"))

    start = time.monotonic()
    _ntdm(*train, "--out", folder / "undisturbed")
    whole = time.monotonic() - start
    generator, out = random.Random(args.seed), folder / "killed"
    kills, finished = 0, 0
    while kills < args.kills:
        process = _start(*train, "--out", out)
        # Long enough, mostly, to load torch and get on by a few epochs. What ends in between is compared.
        try:
            process.wait(generator.uniform(0.1, 0.4) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        else:  # it was too quick: the remaining kills are for another training
            finished += 1
            if process.returncode or _differs(folder / "undisturbed", out):
                print(f"after {kills} kills: the command ended with {process.returncode}")
                return True
            shutil.rmtree(out)
    _ntdm(*train, "--out", out)
    print(f"{kills} kills of a training of {whole:.1f} s, which ended {finished} times in between")
    return _differs(folder / "undisturbed", out)


def _differs(wanted: Path, found: Path) -> bool:
    # TensorBoard's files are named by time and process.
    names = [
        sorted(str(p.relative_to(run)) for p in run.rglob("*") if "tensorboard" not in p.parts)
        for run in (wanted, found)
    ]
    rows = [
        [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in csv.DictReader((run / "train.csv").open())
        ]
        for run in (wanted, found)
    ]
    weights = [(run / "model.safetensors").read_bytes() for run in (wanted, found)]
    results = {
        "weights": weights[0] == weights[1],
        "rows of train.csv": rows[0] == rows[1],
        "names of the files": names[0] == names[1],
    }
    print(", ".join(f"{what} {'the same' if same else 'DIFFERENT'}" for what, same in results.items()))
    return not all(results.values())


def _settings(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


def _start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*NTDM, *map(str, arguments)], stdout=subprocess.DEVNULL)


def _ntdm(*arguments: str | Path) -> None:
    subprocess.run([*NTDM, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
