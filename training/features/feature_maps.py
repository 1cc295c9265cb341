"""What the frozen image tower says of every training picture, computed once and kept in blocks on
disk. It knows no lists.

A picture is kept as the tower's last feature map, of the whole picture and of as many cut-out views
as were asked for.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from llama_index_rnx.candidates import file_source
from llama_index_rnx.rankers.mini import IMAGE_PIXELS
from training.features.views import views

Tower = Callable[[Tensor], Tensor]  # pixels [B, 3, H, W] -> M maps [B, M, C, h, w]
BLOCK = 256  # pictures a file: what a killed run loses at most
BATCH = 16  # views a call of the tower


class FeatureMapCache:
    """A folder of blocks; `fill` adds what is missing, `maps` reads. A picture that changed on disk
    is a new one.

    `views` is how many of each picture are kept, the first being the whole; one cache holds the
    maps of one tower.
    """

    def __init__(self, folder: Path, views: int = 1, flip: bool = False) -> None:
        self.folder, self.views, self.flip = folder, views, flip
        self._places: dict[str, tuple[Any, int]] = {}  # key -> its block, its row
        folder.mkdir(parents=True, exist_ok=True)
        for block in sorted(folder.glob("block-*.safetensors")):
            self._open(block)

    def __contains__(self, path: Path) -> bool:
        return _key(path) in self._places

    def maps(self, paths: Sequence[Path], view: Sequence[int] | None = None) -> Tensor:
        """The maps of pictures that were filled in, [N, M, C, h, w]; `view`: of which view, the
        whole by default.
        """
        found = []
        for path, chosen in zip(paths, view or [0] * len(paths), strict=True):
            block, row = self._places[_key(path)]
            found.append(block[row : row + 1, chosen])  # [1, M, C, h, w]
        return torch.cat(found).float()

    def fill(self, tower: Tower, paths: Iterable[Path], label: str) -> None:
        """Read the pictures that are not there yet, block by block, with a line of progress for
        each.

        Raises:
            ImageError: a picture cannot be read; what was read before is kept.
        """
        missing = [path for path in dict.fromkeys(paths) if path not in self]
        started = time.monotonic()
        for start in range(0, len(missing), BLOCK):
            self._write(tower, missing[start : start + BLOCK])
            done = min(start + BLOCK, len(missing))
            rate = done / (time.monotonic() - started)
            print(
                f"{label}: {done}/{len(missing)} pictures, {rate:.0f}/s, {(len(missing) - done) / rate:.0f} s left",
                flush=True,
            )

    def _write(self, tower: Tower, paths: Sequence[Path]) -> None:
        made = [
            views(
                file_source(path).load(IMAGE_PIXELS),
                self.views,
                zlib.crc32(path.read_bytes()),
                self.flip,
            )
            for path in paths
        ]
        flat = torch.stack([view for of in made for view in of])  # [N * V, 3, H, W]
        with torch.inference_mode():
            maps = torch.cat(
                [tower(part) for part in torch.split(flat, BATCH)]
            ).half()  # [N * V, M, C, h, w]
        block = (
            self.folder
            / f"block-{len(list(self.folder.glob('block-*.safetensors'))):04d}.safetensors"
        )
        part = block.with_suffix(".part")
        tensors = {"maps": maps.contiguous().view(len(paths), self.views, *maps.shape[1:])}
        save_file(tensors, part, metadata={"keys": " ".join(map(_key, paths))})
        part.rename(block)
        self._open(block)

    def _open(self, block: Path) -> None:
        file: Any = safe_open(
            block, "pt"
        )  # stays open: rows are read from the disk when they are asked for
        maps = file.get_slice("maps")
        for row, key in enumerate(file.metadata()["keys"].split()):
            self._places[key] = (maps, row)


def _key(path: Path) -> str:
    return hashlib.blake2b(file_source(path).digest.encode(), digest_size=12).hexdigest()
