"""One photo, one estimate: what the object is, where it stands, what of it is seen.

    python examples/one_photo.py RUN PHOTO OUT [x0 y0 x1 y1]

RUN is a folder that `ntdm train` wrote, as demo/runs/ntdm after `make demo`; the box is in photo pixels.
"""

import math
import sys

import ntdm


def main(run: str, photo: str, out: str, *box: str) -> None:
    """Estimate, print, and write the files of `ntdm infer` and a figure to `out`."""
    estimator = ntdm.load(run)
    estimate = estimator(photo, bbox=tuple(map(float, box)) or None)
    azimuth, elevation, theta, distance = estimate.viewpoint
    print(f"{estimate.category}, score {estimate.score:.3f}")
    print(f"azimuth {math.degrees(azimuth):.1f}, elevation {math.degrees(elevation):.1f} degrees,", end=" ")
    print(f"in-plane {math.degrees(theta):.1f}, at {distance:.2f} CAD units")
    print(f"{estimate.amodal.sum()} pixels in the outline, {estimate.visible.sum()} of them visible")
    folder = estimate.save(out, overwrite=True)
    estimate.plot().savefig(folder.with_suffix(".png"))
    print(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
