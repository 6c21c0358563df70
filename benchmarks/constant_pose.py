"""What one and the same pose for every photo scores, by split: the chance level of a pose accuracy.

    python benchmarks/constant_pose.py CACHE

Prints a line a split, all its categories together: the photos, and the percentage that is right at pi/6 of

    training   the best guess of a grid five degrees apart, chosen on CACHE's pascal3d/train
    own        the best of the split's own poses
    any        the best of 200,000 rotations, refined: nobody can choose it without the answers

The last grows as photos get fewer, because among many guesses one meets by chance more of a few photos.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from ntdm.data_prep.synthetic.viewpoints import constant_pose_shares
from ntdm.geometry.camera import rotation
from ntdm.io.cache import CacheFile

RIGHT = np.cos(np.pi / 6)


def best_of_any(viewpoints: np.ndarray) -> float:
    """Largest share of viewpoints [N, 3] within pi/6 of one rotation, found by search."""
    R = rotation(torch.as_tensor(viewpoints)).flatten(1)

    def shares(guesses: Rotation) -> torch.Tensor:
        parts = torch.from_numpy(guesses.as_matrix()).flatten(1).split(4096)
        return torch.cat([((part @ R.T - 1) / 2 > RIGHT).double().mean(1) for part in parts])

    rng = np.random.default_rng(0)
    spread = Rotation.random(200_000, random_state=rng)
    found = shares(spread)
    best = float(found.max())
    for k in found.topk(20).indices.tolist():
        for step in (0.15, 0.05):  # radians
            near = Rotation.from_rotvec(rng.normal(0, step, (3000, 3))) * spread[k]
            best = max(best, float(shares(near).max()))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", type=Path, help="folder of cache files, with pascal3d/train")
    cache = parser.parse_args().cache
    splits: dict[str, list[np.ndarray]] = {}
    for path in sorted(cache.glob("*/*/*.h5")):
        with CacheFile(path) as file:
            splits.setdefault(f"{file.dataset}/{file.split}", []).append(file["viewpoint"][:, :3])
    if "pascal3d/train" not in splits:
        raise SystemExit(f"{cache} has no pascal3d/train to choose a guess on")
    viewpoints = {name: np.concatenate(parts) for name, parts in splits.items()}
    sides = np.meshgrid(range(0, 360, 5), range(-30, 71, 5), range(-30, 31, 5))
    grid = np.deg2rad(np.stack([side.ravel() for side in sides], axis=1))
    guess = grid[[constant_pose_shares(viewpoints["pascal3d/train"], grid).argmax()]]
    print(f"{'split':24} {'photos':>6} {'training':>8} {'own':>6} {'any':>6}")
    for name, angles in viewpoints.items():
        found = (
            constant_pose_shares(angles, guess)[0],
            constant_pose_shares(angles, angles).max(),
            best_of_any(angles),
        )
        training, own, most = (f"{100 * share:.1f}" for share in found)
        print(f"{name:24} {len(angles):6} {training:>8} {own:>6} {most:>6}")


if __name__ == "__main__":
    main()
