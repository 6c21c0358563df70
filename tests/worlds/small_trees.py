"""Every packaging that prep-data reads, each as a dataset of two or three photos of cars."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import raw_trees as raw
from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data
from ntdm.data_prep.write_caches import PrepReport

CONFIG = PrepConfig(image_size=(16, 24), scale=0.1, objects="all")


def write_trees(folder: Path) -> dict[str, Callable[..., PrepReport]]:
    """The datasets, each in a folder of `folder` called by its key; for each the call that prepares it into
    `folder`/cache, to be given `strict`, `workers` or `overwrite`."""
    photo, record, annotated = raw.write_photo, raw.write_record, raw.annotated
    base = raw.write_pascal3d(folder / "pascal3d", train=2, val=0)
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
    raw.write_mat_cads(old / "CAD" / "car.mat", [(corners, np.uint8([[1, 2, 3], [6, 7, 8]]))] * 2)

    occluded = folder / "occluded"
    masks = {"mask": np.full(raw.PHOTO_SIZE, 230, np.uint8), "occluder_mask": np.eye(80, 100, dtype=bool)}
    for name in ("n0_0", "n0_1"):
        photo(occluded / "images" / "carFGL2_BGL2" / f"{name}.JPEG")
        _npz(occluded / "annotations" / "carFGL2_BGL2" / f"{name}.npz", masks | {"category": "car"})
    _text(occluded / "lists" / "carFGL2_BGL2.txt", "n0_0.JPEG\nn0_1.JPEG")

    columns = "source,cls_name,im_name,object,azimuth,elevation,inplane_rotation,distance"
    columns += ",left,upper,right,lower,im_path"
    rows = ["pascal,car,2008_000001,0,40,10,-5,6,20,25,80,60,images/2008_000001.jpg"]
    rows += ["collection,car,web,0,40,10,-5,6,20,25,80,60,images/web.jpg"]
    _text(folder / "tables" / "nuisances" / "pose" / "pose_bias.csv", "\n".join([columns, *rows]))
    for name in ("2008_000001", "web"):
        photo(folder / "tables" / "nuisances" / "pose" / "images" / f"{name}.jpg")

    weather, rows = (
        folder / "crops" / "nuisances" / "weather",
        ["imgs,labels,azimuth,elevation,theta,distance"],
    )
    for name in ("collection_car_web_0.jpg", "collection_car_other_0.jpg"):
        rows.append(f"{name},car,40,10,-5,6")
        photo(weather / "Images" / "car" / name)
    _text(weather / "labels.csv", "\n".join(rows))

    lists = folder / "lists"
    _text(lists / "lists" / "TrainSet.txt", "n0_0\n2008_000001\n")
    _text(lists / "lists" / "car_shape.txt", "a 1\n")
    _text(lists / "lists" / "car_all.txt", "a 0\na 1\n")
    photo(lists / "images" / "car" / "a.JPEG")
    record(lists / "annotations" / "car" / "a.mat", two)

    pose = {"azimuth": 5.3, "elevation": 0.2, "theta": -0.1, "distance": 6.0}
    camera = {
        "principal": np.array([52.25, 38.5]),
        "bbox": np.array([20.5, 25, 80, 60]),
        "width": 100,
        "height": 80,
    }
    current = pose | camera | {
        "px": 52.25, "py": 38.5, "resize_rate": 1.0, "box": np.float32([0, 80, 0, 100, 80, 100]), "focal": 1,
        "padding_params": np.zeros(6, int), "true_cad_index": 2, "viewport": 3000,
        "amodal_mask": np.array(None),
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

    table = "imgs,labels,azimuth,elevation,theta,distance,nuisance\n"
    table += "00001_car.jpg,car,5.3,0.2,-0.1,6,pose\n00002_car.jpg,car,0.3,0.2,-0.1,6,weather\n"
    _text(folder / "phase2" / "gt.csv", table)
    for number in (1, 2):
        photo(folder / "phase2" / "images" / f"0000{number}_car.jpg")

    given = {"cache_dir": folder / "cache", "config": CONFIG, "categories": ["car"]}
    return {
        "pascal3d": partial(prep_data.run, "pascal3d", base, splits=["train", "voc_train"], **given),
        "pascal3d_1.0": partial(prep_data.run, "pascal3d", old, splits=["train"], **given),
        "occluded": partial(
            prep_data.run, "occluded-pascal3d", occluded, pascal3d=base, **given, splits=["L2"]
        ),
        "nemo": partial(prep_data.run, "nemo-prepared", folder / "nemo", pascal3d=base, **given),
        **{
            name: partial(prep_data.run, "ood-cv", folder / name, pascal3d=base, **given)
            for name in ("tables", "crops", "lists", "challenge", "phase2")
        },
    }


def _npz(path: Path, fields: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **fields)


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
