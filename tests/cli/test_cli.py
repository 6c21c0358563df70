"""The commands' surface: help, exit codes, and errors of one sentence. What stages do is tested with them."""

import errno
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import raw_trees as raw
from ntdm import doctor
from ntdm.cli import app
from ntdm.config.reading import NAMED_CONFIGS, load_toml
from ntdm.config.stages import InferConfig, ShapeConfig
from ntdm.io.cache_split import every_test_split
from ntdm.methods.classifier import HEADS
from ntdm.methods.registry import METHODS, configure
from ntdm.shapes import nearest_faces

COMMANDS = (
    "doctor", "make-data", "prep-data", "inspect", "fit-shapes", "train", "infer", "evaluate", "import",
    "report", "ablate", "export", "demo",
)  # fmt: skip
TRAIN = ("train", "--cache", "c", "--shapes", "s", "--out", "o")


def ntdm(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def sentence(result: Result) -> str:
    """The one line on stderr of a command that could not be done."""
    assert result.exit_code == 1, (result.exit_code, result.output)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("ntdm: ")
    return lines[0]


def test_help_lists_exactly_the_commands() -> None:
    text = ntdm("--help").stdout
    assert [line.split()[0] for line in text.split("Commands:")[1].strip().splitlines()] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: str) -> None:
    result = ntdm(command, "--help")
    assert result.exit_code == 0
    assert f"Example: ntdm {command}" in result.stdout


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("infer",), ("report", "--table", "two"), ("doctor", "--x")]
)
def test_bad_arguments_are_exit_2(arguments: tuple[str, ...]) -> None:
    assert ntdm(*arguments).exit_code == 2


@pytest.mark.parametrize("dataset", ["occluded-pascal3d", "ood-cv", "nemo-prepared"])
def test_datasets_without_cads_of_their_own_need_pascal3d(dataset: str) -> None:
    result = ntdm("prep-data", dataset, "--root", "r", "--cache", "c")
    assert result.exit_code == 2
    assert f"{dataset} has no CADs of its own" in result.stderr


def test_training_parts_are_no_test_splits(tmp_path: Path) -> None:
    for key in ("pascal3d/train", "pascal3d/val", "pascal3d/voc_train", "pascal3d/voc_val"):
        (tmp_path / key).mkdir(parents=True)
        (tmp_path / key / "car.h5").touch()
    assert every_test_split(tmp_path) == ["pascal3d/val", "pascal3d/voc_val"]


@pytest.mark.parametrize("command", [("evaluate", "--run", "r"), ("export", "coco", "--out", "o")])
def test_one_cache_file_takes_no_splits(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "car.h5").touch()
    result = ntdm(*command, "--cache", tmp_path / "car.h5", "--splits", "pascal3d/val")
    assert result.exit_code == 2
    assert "is one split by itself" in " ".join(result.stderr.split())


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "5,5,4,9"])
def test_a_wrong_box_is_exit_2(box: str) -> None:
    result = ntdm("infer", "photo.jpg", "--run", "r", "--out", "o", "--bbox", box)
    assert result.exit_code == 2
    assert "--bbox" in result.stderr


def test_torchrun_is_for_train_and_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    said = sentence(ntdm("make-data", tmp_path / "data"))
    assert "torchrun shares the work of train and evaluate: start make-data without it" in said
    assert not (tmp_path / "data").exists()


def test_cuda_is_refused_not_replaced() -> None:
    assert "--device cuda" in sentence(ntdm(*TRAIN, "--device", "cuda"))


def test_a_command_that_computes_on_the_cpu_says_so(tmp_path: Path) -> None:
    assert "on the CPU only" in sentence(ntdm("make-data", str(tmp_path / "data"), "--device", "cuda"))


def test_a_missing_config_names_the_choices() -> None:
    assert "want tiny, paper" in sentence(ntdm(*TRAIN, "--config", "nope.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train\n", "is not TOML"),
        ("[trian]\n", "'trian' is none of the tables"),
        ("[train]\nepoch = 3\n", "unknown key 'epoch'"),
        ("[train]\nnemo = 3\n", "a method's key holds no table; write [train.<method>]"),
        ("[train]\nepochs = 'many'\n", "epochs is 'many': want int"),
    ],
)
def test_a_wrong_config_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    said = sentence(ntdm(*TRAIN, "--config", path))
    assert message in said
    assert str(path) in said


def test_a_wrong_setting_is_named() -> None:
    assert "unknown key 'epoch'" in sentence(ntdm(*TRAIN, "--set", "epoch=3"))


@pytest.mark.parametrize("name", ["tiny", "paper"])
def test_named_configs_hold_known_keys(name: str) -> None:
    path = NAMED_CONFIGS / f"{name}.toml"
    assert set(tomllib.loads(path.read_text())) == {"shape", "train", "infer"}
    for cls in (ShapeConfig, InferConfig):
        assert (load_toml(cls, path) == cls()) == (name == "tiny")
    assert (configure(name) == METHODS["ntdm"].config()) == (name == "tiny")
    for method in METHODS:
        config = configure(name, method=method)
        assert config.method == method and type(config) is METHODS[method].config
        if method in HEADS:
            assert config.resize == (256 if name == "paper" else 0)


def test_a_methods_own_table_counts_for_it_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ntdm import train

    used = []
    monkeypatch.setattr(
        train, "run", lambda config, *_, **options: used.append((config, options)) or tmp_path
    )
    for extra in (
        ("--method", "res50-pose"),
        ("--set", "method=res50-pose", "--name", "mine"),
        ("--method", "res50-pose", "--set", "epochs=3"),
        (),
    ):
        assert ntdm(*TRAIN, "--config", "paper", "--device", "cpu", *extra).exit_code == 0
    found = [(c.method, c.optimiser, c.epochs, options["name"]) for c, options in used]
    assert found == [
        ("res50-pose", "sgd", 90, None),
        ("res50-pose", "sgd", 90, "mine"),
        ("res50-pose", "sgd", 3, None),
        ("ntdm", "adam", 800, None),
    ]
    assert [getattr(c, "resize", None) for c, _ in used] == [256, 256, 256, None]


def test_ablate_takes_settings_by_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ntdm import ablate

    used = []
    monkeypatch.setattr(ablate, "run", lambda *given, **options: used.append((given, options)) or [tmp_path])
    command = ("ablate", "--cache", "c", "--shapes", "s", "--out", tmp_path, "--device", "cpu", "--seed", "4")
    done = ntdm(*command, "--set", "train.epochs=2", "--set", "infer.steps=5", "--splits", "pascal3d/val,a/b")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [str(tmp_path)] * 2
    (training, inference, *_), options = used[0]
    assert (training.epochs, training.seed, inference.steps, inference.seed) == (2, 4, 5, 4)
    assert options["splits"] == ["pascal3d/val", "a/b"]
    for wrong in ("epochs=2", "shape.steps=3"):
        refused = ntdm(*command, "--set", wrong)
        assert refused.exit_code == 2
        assert "want train.KEY=VALUE or infer.KEY=VALUE" in " ".join(refused.stderr.split())


def test_report_without_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no run in ./runs" in sentence(ntdm("report", "--table", "1"))


def test_a_missing_cache_is_a_sentence(tmp_path: Path) -> None:
    out = tmp_path / "shapes"
    assert str(tmp_path / "none") in sentence(ntdm("fit-shapes", "--cache", tmp_path / "none", "--out", out))
    assert not out.exists()


def test_shapes_of_cads_without_photos(tmp_path: Path) -> None:
    """Every picture and mesh is there, and a category whose only CAD is broken does not stop the others."""
    root, out = tmp_path / "cads", tmp_path / "shapes"
    raw.write_cad(root / "CAD" / "car" / "01.off")
    raw.write_cad(root / "CAD" / "car" / "03.off", (0.2, 0.3, 0.1))
    raw.write_cad(root / "CAD" / "boat" / "01.off", (100.0, 250.0, 80.0))
    small = "subdivisions=1", "steps=4", "surface_samples=50", "width=8", "layers=1"
    settings = [word for setting in small for word in ("--set", setting)]
    fit = ("fit-shapes", "--cad-root", root, "--out", out, *settings)
    result = ntdm(*fit)
    assert result.exit_code == 1
    assert (
        "01.off is not a usable OFF file: a coordinate is 250, where a model's diagonal is 1" in result.stderr
    )
    assert "the 1 others are done" in result.stderr
    sheets = {path.name: path.read_bytes()[:8] for path in (out / "sheets").iterdir()}
    assert sheets == dict.fromkeys(("car.png", "car_convergence.png"), b"\x89PNG\r\n\x1a\n")
    assert len(list((out / "meshes").glob("car_*.obj"))) == 2 + 1 + 3
    assert ntdm(*fit, "--categories", "car").exit_code == 0
    assert "no CADs of category bus" in sentence(ntdm(*fit, "--categories", "bus"))


def test_shapes_on_cuda_want_kaolin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.write_cad(tmp_path / "CAD" / "car" / "01.off")
    fit = ("fit-shapes", "--cad-root", tmp_path, "--out", tmp_path / "out")
    asked = (*fit, "--device", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no CUDA device" in sentence(ntdm(*asked))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nearest_faces, "missing", lambda: "No module named 'kaolin'")
    assert "cannot be used here (No module named 'kaolin'): use --device cpu" in sentence(ntdm(*asked))
    assert not (tmp_path / "out").exists()
    # By default it says why, and computes on the CPU.
    small = ("subdivisions=1", "steps=2", "surface_samples=50", "width=8", "layers=1")
    result = ntdm(*fit, *(word for setting in small for word in ("--set", setting)))
    assert result.exit_code == 0
    assert (
        "fit-shapes computes on the CPU: on CUDA it needs Kaolin (No module named 'kaolin')" in result.stderr
    )


def test_cads_come_from_one_place() -> None:
    result = ntdm("fit-shapes", "--out", "o", "--cache", "c", "--cad-root", "d")
    assert result.exit_code == 2
    assert "--cache or --cad-root" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.h5"), 1, "no space left on the disk (a.h5)"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "b.mat"), 1, "b.mat: No such file"),
        (ValueError("c.off has no faces"), 1, "c.off has no faces"),
        (
            BrokenPipeError(errno.EPIPE, "Broken pipe"),
            1,
            "what reads this command's output ended before it did",
        ),
        (KeyboardInterrupt(), 130, "interrupted; the same command resumes"),
    ],
)
def test_what_a_stage_raises(
    error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> str:
        raise error

    monkeypatch.setattr(doctor, "report", failing)
    result = ntdm("doctor")
    assert result.exit_code == code
    assert text in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> str:
        raise ValueError("from within")

    monkeypatch.setattr(doctor, "report", failing)
    assert isinstance(ntdm("--traceback", "doctor").exception, ValueError)


def test_doctor_names_every_part_and_what_is_missing() -> None:
    text = doctor.report()
    for part in ("Python", "torch", "open3d", "operators on the CPU", "CUDA", "Kaolin", "torchvision"):
        assert part in text
    for line, following in zip(text.splitlines(), [*text.splitlines()[1:], ""], strict=True):
        if "missing" in line or "not usable" in line or "does not import" in line:
            assert following.startswith("  get it: "), line


def test_help_and_report_do_not_wait_for_torch() -> None:
    code = "import sys; import ntdm.cli, ntdm.reports.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
