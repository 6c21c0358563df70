"""The samples of several cache files as one torch Dataset."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ntdm.io.cache import CacheFile
from ntdm.io.cache_split import CacheSplit, Header

_CAMERA = ("viewpoint", "focal", "principal_point", "bbox")


class SampleDataset(Dataset):
    """The samples of several cache files, in file order; safe under a DataLoader with workers.

    An item is a dict: image u8 [3,H,W], a view of [H,W,3]; viewpoint [4], focal [], principal_point [2],
    bbox [4] float32; amodal_mask and visible_mask bool [H,W], occluder_mask where every file has one;
    cad_index int; name, category, dataset, split str; and latent float32 [K] where every file has latents,
    K the largest of the files (zeros beyond a category's own CADs).

    Args:
        files: the split, or its cache files.
        kept_bytes: of decoded samples that are kept in memory; further ones are read from disk each time. A
            kept sample is given out again: do not write into it.

    Raises:
        ValueError: no file, no sample, or files of different image sizes.
    """

    def __init__(self, files: CacheSplit | Sequence[Path], kept_bytes: int = 0) -> None:
        split = files if isinstance(files, CacheSplit) else CacheSplit(files)
        self.paths = split.paths
        self._kept: dict[int, dict[str, Any]] = {}
        self._room = kept_bytes
        self._open: dict[int, CacheFile] = {}
        self._index = [
            (number, i) for number, header in enumerate(split.headers) for i in range(len(header.names))
        ]
        if not self._index:
            raise ValueError(f"no sample in {', '.join(map(str, self.paths)) or 'an empty list of files'}")
        first = split.headers[0]
        for other in split.headers:
            if other.image_size != first.image_size:
                raise ValueError(
                    f"{first.path} has images of {first.image_size}, {other.path} of "
                    f"{other.image_size} (H, W); prepare both at one size"
                )
        self.image_size = first.image_size
        self.has_latent = all(header.latent is not None for header in split.headers)
        occluders = all(header.has_occluders for header in split.headers)
        self._masks = ["amodal_mask", "visible_mask", *(["occluder_mask"] if occluders else [])]
        widest = max(header.num_latents or 0 for header in split.headers)
        self._tables = [_table(header, widest) for header in split.headers]

    def __len__(self) -> int:
        return len(self._index)

    def keys(self) -> list[tuple[str, str]]:
        """(category, name) of every sample, in order."""
        return [
            (self._tables[number]["category"], self._tables[number]["name"][i]) for number, i in self._index
        ]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self._kept:
            return self._kept[index]
        item = self._read(index)
        size = sum(value.nbytes for value in item.values() if isinstance(value, torch.Tensor))
        if size <= self._room:
            self._kept[index] = item
            self._room -= size
        return item

    def _read(self, index: int) -> dict[str, Any]:
        number, i = self._index[index]
        table = self._tables[number]
        if number not in self._open:
            self._open[number] = CacheFile(self.paths[number])
        file = self._open[number]
        item: dict[str, Any] = {k: table[k] for k in ("category", "dataset", "split")}
        item |= {k: table[k][i] for k in ("name", "cad_index", *_CAMERA)}
        if self.has_latent:
            item["latent"] = table["latent"][i]
        item["image"] = torch.from_numpy(file.read("images", i)).permute(2, 0, 1)
        for name in self._masks:
            item[name] = torch.from_numpy(file.read(name, i)).bool()
        return item

    def __getstate__(self) -> dict[str, Any]:
        # HDF5 handles do not cross processes: every DataLoader worker opens its own.
        return self.__dict__ | {"_open": {}}


def _table(header: Header, widest: int) -> dict[str, Any]:
    """The small columns of a file as tensors and lists; latents padded to `widest` entries."""
    table: dict[str, Any] = {k: torch.as_tensor(header.columns[k], dtype=torch.float32) for k in _CAMERA}
    table |= {"name": list(header.names), "cad_index": header.columns["cad_index"].tolist()}
    table |= {"category": header.category, "dataset": header.dataset, "split": header.split}
    if header.latent is not None:
        latent = torch.as_tensor(header.latent)
        table["latent"] = torch.nn.functional.pad(latent, (0, widest - latent.shape[1]))
    return table
