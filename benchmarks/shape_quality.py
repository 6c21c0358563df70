"""The quality table of docs/shapes.md: Γ of `ntdm fit-shapes` between its floor and its ceiling.

    ntdm fit-shapes --cad-root PASCAL3D+_release1.1 --out shapes
    python benchmarks/shape_quality.py --cad-root PASCAL3D+_release1.1 --shapes shapes --out measured

Ours is read from the shapes' descriptions. The floor is the category's scaled sphere. The ceiling is a mesh
of the same topology whose vertices are free, started and fitted for one CAD alone with the weights of the
regularisers, of --ceiling-weights times the configured ones, that serve that CAD best. With --anchors, the
folder of release 1.0 whose CAD/<category>.mat names points on the same models, anchors are carried from each
CAD to each other one through the template, and by the nearest point. With --leave-one-out, Γ is fitted again
to all CADs but one, whose latent is then found with Γ frozen; --leave-one-out-set shortens these fits, of
which there is one a CAD. Each category's figures are kept in OUT/<category>.json; what is there is not
measured again. Prints versions and the table.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine

from ntdm.config.reading import from_dict, override
from ntdm.config.stages import ShapeConfig
from ntdm.data_prep.raw.cad import find_cads, read_anchors
from ntdm.io.cache import Cad
from ntdm.io.outputs import atomic_path
from ntdm.io.progress import say
from ntdm.shapes import fit
from ntdm.shapes.files import load_shape, read_meta
from ntdm.shapes.fit_meshes import fit_meshes
from ntdm.shapes.quality import ShapeQuality, transfer
from ntdm.shapes.visible_surface import Surface, visible_surfaces

NAMES = ("chamfer_l1", "f_score", "silhouette_iou", "flipped", "crossing")


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in NAMES}


def ceiling(
    surfaces: Sequence[Surface], judges: Sequence[ShapeQuality], config: ShapeConfig, factors: Sequence[float]
) -> dict[str, float]:
    """Mean over the CADs of the best free mesh, by Chamfer-L1."""
    best: list[dict[str, float]] = []
    for factor in factors:
        weights = {
            "normal_weight": factor * config.normal_weight,
            "laplacian_weight": factor * config.laplacian_weight,
        }
        settled = from_dict(ShapeConfig, {**vars(config), **weights})
        label = f"ceiling, {factor:g} x the regularisers"
        meshes, template, _ = fit_meshes(surfaces, settled, label, joint=False)
        rows = [judge(mesh, template.faces) for judge, mesh in zip(judges, meshes, strict=True)]
        best = [min(pair, key=lambda r: r["chamfer_l1"]) for pair in zip(rows, best or rows, strict=True)]
    return mean(best)


def leave_one_out(
    surfaces: Sequence[Surface], judges: Sequence[ShapeQuality], config: ShapeConfig
) -> dict[str, float]:
    """Mean over the CADs, each under a Γ that was fitted to the others."""
    rows = []
    for k, (surface, judge) in enumerate(zip(surfaces, judges, strict=True)):
        others = [s for i, s in enumerate(surfaces) if i != k]
        model = fit.fit(others, config, f"all but {k + 1} of {len(surfaces)}").model
        z = fit.fit_latents(model, [surface], f"latent of {k + 1} of {len(surfaces)}").latents
        with torch.no_grad():
            rows.append(judge(model(z)[0], model.template_faces))
    return mean(rows)


def measure(category: str, cads: dict[int, Cad], arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is asked for and not in OUT/<category>.json yet; returns all of it."""
    path = arguments.out / f"{category}.json"
    shape_path = arguments.shapes / f"{category}.safetensors"
    meta, model = read_meta(shape_path), load_shape(shape_path)
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("made_with") != meta["made_with"]:
        found = {"made_with": meta["made_with"], "ours": meta["quality"]["mean"], "cads": len(cads)}
    asked = {"floor"} | ({"ceiling"} if arguments.ceiling else set())
    if arguments.anchors is not None and (arguments.anchors / "CAD" / f"{category}.mat").is_file():
        asked.add("anchors")
    if category in arguments.leave_one_out:
        asked.add("leave_one_out")
    missing = sorted(asked - set(found))
    if not missing:
        return found
    start = time.monotonic()
    surfaces = visible_surfaces(category, cads, model.config.seed)
    judges = (
        [ShapeQuality(cad, s) for cad, s in zip(cads.values(), surfaces, strict=True)]
        if missing != ["anchors"]
        else []
    )
    for what in missing:
        if what == "anchors":
            anchors = read_anchors(arguments.anchors, category)
            with torch.no_grad():
                shapes = model(model.one_hot())
            named = [anchors.get(k, {}) for k in cads]
            errors = transfer(shapes, model.template_faces, surfaces, named)
            ours, nearest = (float(np.median(e)) for e in errors)
            found[what] = {"n": len(errors[0]), "ours": ours, "nearest": nearest}
        elif what == "floor":
            sphere = model.scale * model.template_vertices
            found[what] = mean([judge(sphere, model.template_faces) for judge in judges])
        elif what == "ceiling":
            found[what] = ceiling(surfaces, judges, model.config, arguments.ceiling_weights)
        else:
            shorter = override(model.config, arguments.leave_one_out_set)
            found[what] = leave_one_out(surfaces, judges, shorter)
        with atomic_path(path) as part:
            part.write_text(json.dumps(found, indent=1) + "\n")
    say(f"{category}: {', '.join(missing)} in {time.monotonic() - start:.0f} s")
    return found


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of all categories as Markdown."""
    columns = ("ours", "ceiling", "floor", "leave_one_out")
    lines = []
    for title, name, form in (
        ("Chamfer-L1, % of the diagonal", "chamfer_l1", "{:.2f}"),
        ("F-score at 1 %", "f_score", "{:.1f}"),
        ("Silhouette IoU, %", "silhouette_iou", "{:.1f}"),
        ("Flipped faces, %", "flipped", "{:.1f}"),
        ("Crossing faces, %", "crossing", "{:.1f}"),
    ):
        lines += [
            f"| {title} | CADs | ours | ceiling | floor | leave one out |",
            "| --- " + "| ---: " * 5 + "|",
        ]
        for category, row in rows.items():
            cells = [form.format(100 * row[c][name]) if c in row else "" for c in columns]
            lines.append(f"| {category} | {row['cads']} | {' | '.join(cells)} |")
        means = []
        for c in columns:
            # A mean over some of the categories would look like one over all.
            whole = all(c in row for row in rows.values())
            means.append(form.format(np.mean([100 * r[c][name] for r in rows.values()])) if whole else "")
        lines += [f"| mean | {sum(r['cads'] for r in rows.values())} | {' | '.join(means)} |", ""]
    with_anchors = {c: r["anchors"] for c, r in rows.items() if "anchors" in r}
    if with_anchors:
        lines += [
            "| Anchors: median error, % of the diagonal | pairs | template | nearest point | less by |",
            "| --- " + "| ---: " * 4 + "|",
        ]
        gains = []
        for category, a in with_anchors.items():
            gains.append(100 * (1 - a["ours"] / a["nearest"]))
            errors = f"{100 * a['ours']:.2f} | {100 * a['nearest']:.2f}"
            lines.append(f"| {category} | {a['n']} | {errors} | {gains[-1]:.0f} % |")
        lines += [f"| mean | {sum(a['n'] for a in with_anchors.values())} | | | {np.mean(gains):.0f} % |", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cad-root", type=Path, required=True)
    parser.add_argument("--shapes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--anchors", type=Path)
    parser.add_argument("--categories", nargs="*")
    parser.add_argument("--ceiling", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--ceiling-weights", nargs="+", type=float, default=[1.0, 0.1], metavar="FACTOR")
    parser.add_argument("--leave-one-out", nargs="*", default=[], metavar="CATEGORY")
    parser.add_argument("--leave-one-out-set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    print(machine("cpu"))
    rows = {}
    for category, read in find_cads(arguments.cad_root).items():
        if arguments.categories is None or category in arguments.categories:
            rows[category] = measure(category, read(), arguments)
    print(table(rows))


if __name__ == "__main__":
    main()
