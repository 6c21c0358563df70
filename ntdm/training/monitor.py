"""What a training shows of itself: sheets of what the model sees, validation, TensorBoard, early warnings."""

import importlib.util
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ntdm.config.stages import InferConfig
from ntdm.data.augment import draw_augmentation
from ntdm.data.batch import make_batch
from ntdm.data.dataset import SampleDataset
from ntdm.geometry import metrics
from ntdm.geometry.camera import rotation
from ntdm.io.cache_split import find
from ntdm.io.progress import say
from ntdm.io.run_folder import RunFolder
from ntdm.methods.ntdm import NTDM
from ntdm.methods.registry import METHODS
from ntdm.nn.base import FeatureModel, Model
from ntdm.training.sheet import PHOTOS, draw_sheet

VALIDATED = 32  # photos
# Features whose mean is this long point into one direction: they tell nothing from nothing.
ONE_DIRECTION = 0.99


@dataclass(frozen=True)
class Validation:
    """Cache files of which a few photos are tried in between, and the inference config for them."""

    paths: Sequence[Path]
    inference: InferConfig

    @classmethod
    def open(
        cls, cache_dir: Path, key: str, categories: Sequence[str] | None, inference: InferConfig
    ) -> "Validation":
        """The files of `key` ("pascal3d/val") in a cache folder; ValueError as :func:`find`."""
        return cls(find(cache_dir, key, categories), inference)


class TrainingMonitor:
    """Looks at a training after every epoch, and closely after every `every` epochs (0: never) and the last.

    Nothing that it does changes the training: it draws from no generator but its own.

    Args:
        out: the run folder; sheets go to sheets/train, TensorBoard's files to tensorboard.
        focal: nominal focal length, crop pixels.
    """

    def __init__(
        self, data: SampleDataset, out: Path, every: int, focal: float, validation: Validation | None
    ) -> None:
        self.data, self.out, self.every, self.focal, self.validation = data, out, every, focal, validation
        self.seen: Counter[str] = Counter()
        self._epochs = 0  # since this process began
        self._board: Any = None

    def after(self, row: dict[str, Any], epochs: int, model: Model) -> None:
        """After the epoch of train.csv's `row`, to which the validation's accuracy is added."""
        epoch, sheet = row["epoch"], None
        sheet_due = self.every > 0 and (epoch % self.every == 0 or epoch == epochs)
        if self.validation is not None:
            row["val_pose_acc_pi_6"] = None
        self._epochs += 1
        if sheet_due:
            model.eval()
            sheet = self._look(epoch, model)
            if self.validation is not None:
                row["val_pose_acc_pi_6"] = self._validate(epoch, model, self.validation)
            model.train()
        if self.every > 0 and self._epochs == 1:
            self._board = _board(self.out / "tensorboard", row["step"])
        if self._board is not None:
            for name, value in row.items():
                if name not in ("epoch", "step") and value is not None:
                    self._board.add_scalar(name, value, row["step"])
            if sheet is not None:
                with Image.open(sheet) as image:
                    self._board.add_image("sheet", np.asarray(image), row["step"], dataformats="HWC")
            self._board.flush()

    def close(self) -> None:
        """After the last epoch."""
        if self._board is not None:
            self._board.close()

    def _look(self, epoch: int, model: Model) -> Path | None:
        for name in model.categories:
            if not self.seen[name]:
                say(f"warning: {self._epochs} epochs saw no photo of {name}")
        if not isinstance(model, FeatureModel):
            return None
        count = min(PHOTOS, len(self.data))
        items = [self.data[i * len(self.data) // count] for i in range(count)]
        augmentation = draw_augmentation(count, model.config, torch.Generator().manual_seed(0))
        batch = make_batch(items, model.categories, model.num_latents, model.config, augmentation)
        batch = batch.to(str(next(model.parameters()).device))
        with torch.no_grad():
            length = float(model.features(batch.photo).flatten(0, 2).mean(0).norm())
        if not math.isfinite(length):
            raise ValueError(f"after epoch {epoch} features are not finite: lower learning_rate")
        if length > ONE_DIRECTION:
            say(
                f"warning: after epoch {epoch} all features point one way (length of their mean "
                f"{length:.3f}): lower learning_rate"
            )
        if not isinstance(model, NTDM):
            return None
        return draw_sheet(model, batch, RunFolder(self.out).sheet(f"train/epoch_{epoch:04d}"))

    def _validate(self, epoch: int, model: Model, validation: Validation) -> float | None:
        """Pose accuracy at pi/6 of a few photos, percent."""
        data = SampleDataset(validation.paths)
        count = min(VALIDATED, len(data))
        items = [data[i * len(data) // count] for i in range(count)]
        predictor = METHODS[model.config.method].predictor(
            model, validation.inference, data.image_size, self.focal
        )
        device, viewpoints = next(model.parameters()).device, []
        for start in range(0, count, validation.inference.batch_size):
            part = items[start : start + validation.inference.batch_size]
            photo = torch.stack([item["image"] for item in part]).to(device)
            guess = predictor(photo, [model.categories.index(item["category"]) for item in part])
            if guess.viewpoint is None:
                say(f"{model.config.method} predicts no pose: --validate-on measures nothing")
                return None
            viewpoints.append(guess.viewpoint)
        truth = torch.stack([item["viewpoint"] for item in items])
        error = metrics.rotation_error(
            *(rotation(v.cpu().double()).numpy() for v in (torch.cat(viewpoints), truth))
        )
        accuracy = metrics.accuracy(error, metrics.PI_6)
        say(f"epoch {epoch}: pose within pi/6 on {count} photos: {accuracy:.1f} %")
        return accuracy


def _board(folder: Path, step: int) -> Any:
    """TensorBoard's writer, whose curves go on at `step`; None where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        say("TensorBoard is not installed (pip install tensorboard): train.csv and sheets only")
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step)
