"""Frozen prefixes: what enters the lowest adapted layer, computed once and shared.

Below its lowest adapted layer every genome does what the base does. The activations that enter that
layer are kept in memory-mapped files, so that genomes, epochs, stages, splits and worker processes
share them. Texts are computed in fixed blocks: a block has the same bits, whoever needed it first.
Workers that need a block at the same time compute different ones meanwhile.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coral.sharing import highest_kept
from coral.training.base import BaseModel
from coral.training.batches import Indices
from coral.training.texts import (
    Padded,
    TokenizedTexts,
    batched_by_length,
    on_device,
    tokens_at_once,
)

Precision = Literal["float32", "float16"]

TOLERANCES: Mapping[Precision, float] = {"float32": 1e-5, "float16": 5e-3}
"""How far the last hidden states may differ, relative to their largest, for a base to be shared."""

WAIT_SECONDS = 0.002
"""Between two looks at a block that another process computes, when nothing else is left to do."""

TRIED_TOKENS = 8
"""Tokens of the texts on which that is tried."""


class _EnteredError(Exception):
    """Stops a forward pass where a layer is entered."""


@contextmanager
def entering(stack: nn.ModuleList, cut: int, hidden: Tensor) -> Iterator[None]:
    """Let forward passes of the scope begin at layer ``cut``, with ``hidden``.

    What surrounds the stack runs as always, for it makes masks and positions.
    """

    def enter(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (hidden, *inputs[1:])

    below = list(stack)[:cut]
    handle = stack[cut].register_forward_pre_hook(enter)
    try:
        for layer in below:
            layer.forward = _pass_on
        yield
    finally:
        handle.remove()
        for layer in below:
            vars(layer).pop("forward", None)


def _pass_on(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden


def hidden_before(model: nn.Module, stack: nn.ModuleList, cut: int, **inputs: Tensor) -> Tensor:
    """Return what enters layer ``cut``; nothing above it is computed."""
    found: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(inputs[0])
        raise _EnteredError

    handle = stack[cut].register_forward_pre_hook(stop)
    try:
        model(**inputs)
    except _EnteredError:
        pass
    finally:
        handle.remove()
    return found[0]


class Prefix:
    """What enters one layer, for the texts of one set."""

    def __init__(
        self,
        texts: TokenizedTexts,
        folder: Path,
        compute: Callable[[Indices], Tensor],
        width: int,
        block_tokens: int,
        precision: Precision,
    ) -> None:
        """Args:
        folder: of this set, layer and precision alone.
        compute: activations of some texts, ``(rows, longest, width)``, in that precision.
        block_tokens: of a block at most, padding included, unless one text is longer.
        """
        self._texts = texts
        self._compute = compute
        self._blocks = batched_by_length(texts.lengths, block_tokens)
        self._block_of = np.empty(len(texts.lengths), dtype=np.int64)
        for number, members in enumerate(self._blocks):
            self._block_of[members] = number
        self._verified = np.zeros(len(self._blocks), dtype=bool)
        folder.mkdir(parents=True, exist_ok=True)
        shape = (len(texts.ids), width)
        self._hidden: NDArray[np.floating] = _mapped(
            folder / f"hidden.{precision}", precision, shape
        )
        self._claims = (folder / "claims").open("ab")
        sums = (len(self._blocks), 2)
        self._sums: NDArray[np.uint32] = _mapped(folder / "sums.u32", np.uint32, sums)

    def hidden(self, rows: Indices) -> Tensor:
        """Return ``(rows, longest, width)``, zeros where texts are padded."""
        self._need(np.unique(self._block_of[rows]))
        lengths, starts = self._texts.lengths[rows], self._texts.starts[rows]
        padded = np.zeros((len(rows), int(lengths.max()), self._hidden.shape[1]), np.float32)
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            padded[i, :length] = self._hidden[start : start + length]
        return torch.from_numpy(padded)

    def _need(self, blocks: Indices) -> None:
        """Compute blocks that nobody has computed, or that are not what was written."""
        for block in blocks[~self._verified[blocks]].tolist():
            while not self._is_sound(block):
                if not self._fill_unless_claimed(block):
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
        hidden = self._compute(rows).cpu().numpy()
        for text, own in zip(rows, hidden, strict=True):
            start, end = self._texts.starts[text], self._texts.starts[text + 1]
            self._hidden[start:end] = own[: end - start]
        self._sums[block] = (1, self._sum(block))

    def _sum(self, block: int) -> int:
        total = 0
        for text in self._blocks[block]:
            start, end = self._texts.starts[text], self._texts.starts[text + 1]
            total = zlib.crc32(self._hidden[start:end].tobytes(), total)
        return total


def _last_used(folder: Path) -> float:
    """Return when a folder was used last; 0 if another process has removed it."""
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _bytes_in(folder: Path) -> int:
    """Return the bytes that a folder's files have room for."""
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:
        return 0


def _mapped(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
    """Map a file of zeros, or of what processes have written to it, into memory.

    Raises:
        OSError: the disk has no room for it. To find out only while writing would end the process.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):  # macOS lacks it
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """Where forward passes of a base begin.

    Attributes:
        cut: layer that is entered; 0 if everything is computed.
    """

    cut: int = 0
    prefixes: Prefixes | None = None

    def hidden(self, texts: TokenizedTexts, rows: Indices) -> Tensor | None:
        """Return what enters the layer for some texts; None if that is not known."""
        if self.prefixes is None or not self.cut or texts.passing:
            return None
        known = self.prefixes.of(texts, self.cut)
        return None if known is None else known.hidden(rows)

    @contextmanager
    def used_for(
        self,
        texts: TokenizedTexts,
        rows: Indices,
        arranged: Callable[[Tensor], Tensor] = lambda hidden: hidden,
    ) -> Iterator[None]:
        """Let the base's forward passes over some texts begin here.

        Args:
            arranged: brings what enters a layer, a text a row, into the rows of the pass.
        """
        hidden = self.hidden(texts, rows)
        if hidden is None or self.prefixes is None:
            yield
            return
        base, hidden = self.prefixes.base, arranged(hidden)
        with entering(base.stack, self.cut, on_device(hidden, base.device)):
            yield


WHOLE = Entrance()
"""Everything is computed."""


class Prefixes:
    """What enters the layers of one base, by set of texts and by layer."""

    def __init__(
        self,
        base: BaseModel,
        folder: Path,
        most_bytes: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        """Args:
        folder: on this machine; other processes may use it too.
        most_bytes: that the folder may take; what was not used for longest goes first.
        precision: of what is kept.
        """
        self.base = base
        self.feature_bytes = np.dtype(precision).itemsize
        self._precision: Precision = precision
        self._folder = folder
        self._most_bytes = most_bytes
        self._prefixes: dict[tuple[str, int], Prefix | None] = {}
        self._exact: dict[int, bool] = {}

    def entrance(self, lowest: int, allowed: Collection[int] | None = None) -> Entrance:
        """Return where a base is entered whose layers below ``lowest`` are as they were.

        The base must be plain: whether it gives the same from there on is tried once.

        Args:
            allowed: layers that may be entered; None for any.
        """
        cut = highest_kept(lowest, allowed)
        if cut not in self._exact:
            self._exact[cut] = cut > 0 and self._gives_the_same(cut)
        return Entrance(cut=cut if self._exact[cut] else 0, prefixes=self)

    def of(self, texts: TokenizedTexts, cut: int) -> Prefix | None:
        """Return what enters layer ``cut`` for some texts; None if the disk has no room for it."""
        key = (texts.digest, cut)
        if key not in self._prefixes:
            try:
                self._prefixes[key] = self._opened(texts, cut)
            except OSError:
                self._prefixes[key] = None
        return self._prefixes[key]

    def _opened(self, texts: TokenizedTexts, cut: int) -> Prefix:
        name = hashlib.sha256(
            f"{self.base.digest} {self.base.device.type} {torch.__version__}"
            f" {texts.digest} {cut} {self._precision}".encode()
        ).hexdigest()
        self._make_room(len(texts.ids) * self.base.hidden_size * self.feature_bytes, name)
        return Prefix(
            texts,
            self._folder / name,
            lambda rows: self._computed(texts, rows, cut),
            self.base.hidden_size,
            tokens_at_once(self.base.device),
            self._precision,
        )

    def _make_room(self, size: int, name: str) -> None:
        """Remove what was not used for longest; other processes keep what they have open."""
        (self._folder / name).mkdir(parents=True, exist_ok=True)
        os.utime(self._folder / name)
        if self._most_bytes is None:
            return
        others = [folder for folder in self._folder.iterdir() if folder.name != name]
        others.sort(key=_last_used)
        taken = sum(map(_bytes_in, others))
        while others and taken + size > self._most_bytes:
            taken -= _bytes_in(others[0])
            shutil.rmtree(others.pop(0), ignore_errors=True)

    def _computed(self, texts: TokenizedTexts, rows: Indices, cut: int) -> Tensor:
        """Compute what enters a layer, from the highest layer below of which that is known exactly.

        From what was rounded, a block would get other bits than from the start.
        """
        known = (c for digest, c in self._prefixes if digest == texts.digest and c < cut)
        lower = max(known, default=0) if self._precision == "float32" else 0
        with Entrance(cut=lower, prefixes=self).used_for(texts, rows):
            return self._rounded(self._compute(texts.pad(rows), cut))

    def _rounded(self, hidden: Tensor) -> Tensor:
        """Return activations in the precision in which they are kept.

        Half precision ends at 65 504, which few models come near; what lies beyond stops there.
        """
        if self._precision == "float32":
            return hidden.float()
        most = torch.finfo(torch.float16).max
        return hidden.float().clamp(-most, most).half()

    def _gives_the_same(self, cut: int) -> bool:
        """Return whether entering a layer with what it was given before changes nothing."""
        words = self.base.tokenizer.vocab_size
        ids = torch.arange(2 * TRIED_TOKENS).reshape(2, -1) % words
        mask = torch.ones_like(ids)
        mask[1, TRIED_TOKENS // 2 :] = 0
        try:
            padded = Padded(ids, mask)
            whole = self._last_hidden(padded)
            hidden = self._compute(padded, cut)
            hidden = self._rounded(hidden).to(hidden.dtype) * mask.unsqueeze(-1).to(hidden.device)
            with entering(self.base.stack, cut, hidden):
                entered = self._last_hidden(padded)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            return False  # its layers take or give something else than one tensor
        difference = (entered - whole)[mask.bool()].abs().max()
        most = TOLERANCES[self._precision] * whole[mask.bool()].abs().max()
        return bool(difference <= most)

    @torch.no_grad()
    def _compute(self, texts: Padded, cut: int) -> Tensor:
        inputs = texts.on(self.base.device).inputs()
        return hidden_before(self.base.model, self.base.stack, cut, **inputs)

    @torch.no_grad()
    def _last_hidden(self, texts: Padded) -> Tensor:
        inputs = texts.on(self.base.device).inputs()
        found: Tensor = self.base.model(**inputs).last_hidden_state
        return found.float().cpu()
