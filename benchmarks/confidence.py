"""Does a run's score tell right from wrong? Shares of right poses and classes by quarter of the score.

    python benchmarks/confidence.py RUN [--splits pascal3d/val,occluded_pascal3d/L1]

Reads the run's predictions and errors, of all splits there are or of those named, together. AUC is the chance
that of two photos, one right and one wrong, the right one has the higher score: 0.5 says nothing.
"""

import argparse
from pathlib import Path

import numpy as np

from ntdm.geometry.metrics import PI_6
from ntdm.io.error_table import read_errors
from ntdm.io.predictions import read_predictions

QUARTERS = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--splits", help="comma-separated; by default all that were evaluated")
    args = parser.parse_args()
    errors = args.run / "errors"
    found = sorted(str(path.relative_to(errors).with_suffix("")) for path in errors.rglob("*.csv"))
    score, right = [], {"pose within pi/6": [], "class": []}
    for split in args.splits.split(",") if args.splits else found:
        predicted = read_predictions(args.run / "predictions" / f"{split}.csv")
        wrong = read_errors(errors / f"{split}.csv")
        row = {key: number for number, key in enumerate(predicted.keys())}
        samples = wrong.keys()
        score.append(predicted["score"][[row[sample] for sample in samples]])
        right["pose within pi/6"].append(wrong["rotation_error"] < PI_6)
        right["class"].append(wrong["class_correct"] == 1)
    values = np.concatenate(score)
    quarter = np.argsort(np.argsort(values)) * QUARTERS // len(values)
    print(f"{args.run}, {len(values)} photos; percent right by quarter of the score, lowest first")
    for name, parts in right.items():
        hit = np.concatenate(parts)
        shares = " ".join(f"{100 * hit[quarter == q].mean():5.1f}" for q in range(QUARTERS))
        print(f"  {name:17s} {shares}   AUC {auc(values, hit):.2f}")


def auc(score: np.ndarray, right: np.ndarray) -> float:
    """The area under the ROC curve of scores [N] for right [N] bool; nan where all are right, or none."""
    above = score[right][:, None] - score[~right]
    return float(((above > 0) + (above == 0) / 2).mean()) if above.size else float("nan")


if __name__ == "__main__":
    main()
