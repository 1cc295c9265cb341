"""The feature maps of the frozen image encoder for every training image, computed once and kept in
blocks on disk. It knows no lists.

An image is kept as the tower's last feature map, of the whole image and of as many crops as were
asked for.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from llama_index_rnx.candidates import file_source
from llama_index_rnx.console import progress_bar
from llama_index_rnx.rankers.mini import IMAGE_PIXELS
from llama_index_rnx.system import atomic_write
from training.features.views import views

# Pixels [B, 3, H, W] in, M maps [B, M, C, h, w] out.
Tower = Callable[[Tensor], Tensor]

BLOCK = 256  # images a file: what a killed run loses at most
VIEWS_AT_ONCE = 16


class FeatureMapCache:
    """A folder of blocks: `fill` adds what is missing, `maps` reads. An image that changed on disk
    is a new one.

    Args:
        folder: of the blocks of one tower.
        views: per image; the first is the whole image.
        flip: whether every second view is mirrored.
    """

    def __init__(self, folder: Path, views: int = 1, flip: bool = False) -> None:
        self.folder = folder
        self.views = views
        self.flip = flip

        # The block of every image, by its key, and its row there.
        self._rows: dict[str, tuple[Any, int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for block in self._blocks():
            self._open(block)

    def __contains__(self, path: Path) -> bool:
        return _key(path) in self._rows

    def maps(self, paths: Sequence[Path], view: Sequence[int] | None = None) -> Tensor:
        """Return the maps of cached images, [N, M, C, h, w]; view: of which view, by default of the
        whole image.

        Raises:
            KeyError: an image is not in the cache.
        """
        rows = []
        for path, index in zip(paths, view or [0] * len(paths), strict=True):
            block, row = self._rows[_key(path)]
            rows.append(block[row : row + 1, index])  # [1, M, C, h, w]
        return torch.cat(rows).float()

    def fill(self, tower: Tower, paths: Iterable[Path], label: str) -> None:
        """Compute and write the maps of images that are not cached yet, block by block.

        Raises:
            ImageError: an image cannot be read; the blocks before it stay.
        """
        missing = [path for path in dict.fromkeys(paths) if path not in self]
        with progress_bar(label, len(missing), "images") as advance:
            for start in range(0, len(missing), BLOCK):
                block = missing[start : start + BLOCK]
                self._write(tower, block)
                advance(len(block))

    def _write(self, tower: Tower, paths: Sequence[Path]) -> None:
        pixels = torch.stack([view for path in paths for view in self._views(path)])
        with torch.inference_mode():
            batches = [tower(batch) for batch in torch.split(pixels, VIEWS_AT_ONCE)]
        maps = torch.cat(batches).half()  # [N * V, M, C, h, w]
        maps = maps.contiguous().view(len(paths), self.views, *maps.shape[1:])

        block = self.folder / f"block-{len(self._blocks()):04d}.safetensors"
        with atomic_write(block) as partial:
            save_file({"maps": maps}, partial, metadata={"keys": " ".join(map(_key, paths))})
        self._open(block)

    def _views(self, path: Path) -> list[Tensor]:
        image = file_source(path).load(IMAGE_PIXELS)
        return views(image, self.views, zlib.crc32(path.read_bytes()), self.flip)

    def _blocks(self) -> list[Path]:
        return sorted(self.folder.glob("block-*.safetensors"))

    def _open(self, block: Path) -> None:
        # The file stays open: rows are read from the disk when they are needed.
        file: Any = safe_open(block, "pt")
        maps = file.get_slice("maps")
        for row, key in enumerate(file.metadata()["keys"].split()):
            self._rows[key] = (maps, row)


def _key(path: Path) -> str:
    digest = file_source(path).digest
    return hashlib.blake2b(digest.encode(), digest_size=12).hexdigest()
