"""Files of what enters a layer, which processes fill and read together.

Texts are computed in fixed blocks: a block has the same bits, whoever needed it first. Workers that
need a block at the same time compute different ones meanwhile.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from coral.training.batches import Indices
from coral.training.entering import Known
from coral.training.texts import TokenizedTexts, batched_by_length

Precision = Literal["float32", "float16"]

LAYOUT = "by block"
"""How tokens follow each other in files; another name makes files of before unknown."""

WAIT_SECONDS = 0.002
"""Between two looks at a block that another process computes, when nothing else is left to do."""


class Prefix:
    """What enters one layer, for the texts of one set."""

    def __init__(
        self,
        texts: TokenizedTexts,
        folder: Path,
        compute: Callable[[Indices], Known],
        widths: Sequence[int],
        block_tokens: int,
        precision: Precision,
    ) -> None:
        """Args:
        folder: of this set, start and precision alone.
        compute: what is known of some texts, in that precision.
        widths: features of its parts.
        block_tokens: of a block at most, padding included, unless one text is longer.
        """
        self._texts = texts
        self._compute = compute
        self._blocks = batched_by_length(texts.lengths, block_tokens)
        self._block_of = np.empty(len(texts.lengths), dtype=np.int64)
        for number, members in enumerate(self._blocks):
            self._block_of[members] = number
        # A block's tokens lie together, text by text.
        order = np.concatenate(self._blocks)
        ends = np.cumsum(texts.lengths[order])
        self._begins = np.empty(len(order), dtype=np.int64)
        self._begins[order] = ends - texts.lengths[order]
        self._verified = np.zeros(len(self._blocks), dtype=bool)
        folder.mkdir(parents=True, exist_ok=True)
        self._widths = tuple(widths)
        shape = (len(texts.ids), sum(widths))
        self._mapping = _mapped(folder / f"known.{precision}", precision, shape)
        self._kept: NDArray[np.floating] = np.frombuffer(self._mapping, precision).reshape(shape)
        self._claims = (folder / "claims").open("ab")
        sums = (len(self._blocks), 2)
        mapped = _mapped(folder / "sums.u32", np.uint32, sums)
        self._sums: NDArray[np.uint32] = np.frombuffer(mapped, np.uint32).reshape(sums)

    def known(self, rows: Indices) -> Known:
        """Return what is known of some texts, in float32."""
        self._need(np.unique(self._block_of[rows]))
        lengths, begins = self._texts.lengths[rows], self._begins[rows]
        parts, first = [], 0
        for width in self._widths:
            padded = np.zeros((len(rows), int(lengths.max()), width), np.float32)
            for i, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
                padded[i, :length] = self._kept[begin : begin + length, first : first + width]
            parts.append(torch.from_numpy(padded))
            first += width
        # Else a worker would come to hold all that it has ever read. The system keeps the file.
        self._mapping.madvise(mmap.MADV_DONTNEED)
        return Known.of(parts)

    def _need(self, blocks: Indices) -> None:
        """Compute blocks that nobody has computed, or that are not what was written."""
        for block in blocks[~self._verified[blocks]].tolist():
            while not (self._is_sound(block) or self._fill_unless_claimed(block)):
                self._help_meanwhile(block)
            self._verified[block] = True

    def _fill_unless_claimed(self, block: int) -> bool:
        """Compute a block, unless another process does so now; return whether it was done.

        The claim is a POSIX record lock on one byte: it ends with the process, however that ends.
        """
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, block)
        except OSError:
            return False
        try:
            if not self._is_sound(block):
                self._fill(block)
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, block)
        return True

    def _help_meanwhile(self, waiting_for: int) -> None:
        """While another process computes a block, compute one that is needed later."""
        count = len(self._blocks)
        for block in ((waiting_for + i) % count for i in range(1, count)):
            if not self._sums[block, 0] and self._fill_unless_claimed(block):
                return
        time.sleep(WAIT_SECONDS)

    def _is_sound(self, block: int) -> bool:
        present, expected = self._sums[block]
        return bool(present) and self._sum(block) == int(expected)

    def _fill(self, block: int) -> None:
        rows = self._blocks[block]
        lengths = self._texts.lengths[rows]
        tokens = np.arange(lengths.max()) < lengths[:, None]
        first = 0
        for part, width in zip(self._compute(rows).parts, self._widths, strict=True):
            self._of(block)[:, first : first + width] = part.cpu().numpy()[tokens]
            first += width
        self._sums[block] = (1, self._sum(block))

    def _of(self, block: int) -> NDArray[np.floating]:
        """Return what is kept of a block, a token a row."""
        rows = self._blocks[block]
        begin = self._begins[rows[0]]
        return self._kept[begin : begin + self._texts.lengths[rows].sum()]

    def _sum(self, block: int) -> int:
        return zlib.crc32(self._of(block).data)


def _mapped(path: Path, dtype: Any, shape: tuple[int, ...]) -> mmap.mmap:
    """Map a file of zeros, or of what processes have written to it, into memory.

    Raises:
        OSError: the disk has no room for it. To find out only while writing would end the process.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):  # macOS lacks it
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), size)
