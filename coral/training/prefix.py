"""Frozen prefixes: what enters the lowest adapted layer, computed once and shared.

Below its lowest adapted layer every genome does what the base does. The activations that enter that
layer are kept in files (``blocks.py``) that genomes, epochs, stages, splits and worker processes
share. On a CPU so is what the layer's first frozen maps make of them, to which a genome adds its
own updates.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from coral.flops import BEGINNING, Start
from coral.sharing import highest_start
from coral.training.base import BaseModel
from coral.training.batches import Indices
from coral.training.blocks import LAYOUT, Precision, Prefix
from coral.training.entering import Known, entering, known_before
from coral.training.entries import entry_maps
from coral.training.texts import Padded, TokenizedTexts, on_device, tokens_at_once

TOLERANCES: Mapping[Precision, float] = {"float32": 1e-5, "float16": 5e-3}
"""How far the last hidden states may differ, relative to their largest, for a base to be shared."""

TRIED_TOKENS = 8
"""Tokens of the texts on which that is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """Where forward passes of a base begin.

    Attributes:
        prefixes: tell what is known there; None if everything is computed.
    """

    start: Start = BEGINNING
    prefixes: Prefixes | None = None

    def known(self, texts: TokenizedTexts, rows: Indices) -> Known | None:
        """Return what is known of some texts, if that is kept."""
        if self.prefixes is None or texts.passing:
            return None
        prefix = self.prefixes.of(texts, self.start)
        return None if prefix is None else prefix.known(rows)

    @contextmanager
    def used_for(
        self,
        texts: TokenizedTexts,
        rows: Indices,
        arranged: Callable[[Tensor], Tensor] = lambda hidden: hidden,
    ) -> Iterator[None]:
        """Let the base's forward passes over some texts begin here.

        Args:
            arranged: brings what is known, a text a row, into the rows of the pass.
        """
        known = self.known(texts, rows)
        if known is None or self.prefixes is None:
            yield
            return
        base = self.prefixes.base
        there = known.each(lambda part: on_device(arranged(part), base.device))
        with entering(base, self.start, there):
            yield

    def keeps(self) -> list[nn.Module]:
        """Return the frozen maps whose products are known, which must stay as they are."""
        if self.prefixes is None:
            return []
        base = self.prefixes.base
        return entry_maps(base.model, base.linear_modules, self.start)


WHOLE = Entrance()
"""Everything is computed."""


class Prefixes:
    """What is known of the texts of one base, by set of texts and by start."""

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
        # To bring them to a GPU would take longer than to multiply there.
        self.shares_products = base.merges and base.device.type == "cpu"
        self._precision: Precision = precision
        self._folder = folder
        self._most_bytes = most_bytes
        self._prefixes: dict[tuple[str, Start], Prefix | None] = {}
        self._exact: dict[Start, bool] = {}
        self._entered: frozenset[int] = frozenset()

    def entrance(
        self,
        lowest: int | None,
        kept: Collection[int] | None = None,
        entered: Collection[int] = (),
    ) -> Entrance:
        """Return where a base is entered whose layers below ``lowest`` are as they were.

        The base must be plain: whether it gives the same from there on is tried once.

        Args:
            lowest: None if something beside the layers has changed.
            kept: layers that may be entered; None for all.
            entered: layers that others enter. What enters one is kept as passes come by.
        """
        self._entered = frozenset(entered)
        start = highest_start(lowest, kept, products=self.shares_products)
        if start == BEGINNING:
            return WHOLE
        if start not in self._exact:
            self._exact[start] = self._gives_the_same(start)
        return Entrance(start=start, prefixes=self) if self._exact[start] else WHOLE

    def of(self, texts: TokenizedTexts, start: Start) -> Prefix | None:
        """Return what is known of texts at a start; None if the disk has no room for it."""
        key = (texts.digest, start)
        if key not in self._prefixes:
            try:
                self._prefixes[key] = self._opened(texts, start)
            except OSError:
                self._prefixes[key] = None
        return self._prefixes[key]

    def _opened(self, texts: TokenizedTexts, start: Start) -> Prefix:
        name = self._name(texts, start)
        products = (m.out_features for m in self.base.linear_modules if start.knows(m))
        widths = [self.base.hidden_size, *products]
        self._make_room(len(texts.ids) * sum(widths) * self.feature_bytes, name)
        return Prefix(
            texts,
            self._folder / name,
            lambda rows: self._computed(texts, rows, start),
            widths,
            tokens_at_once(self.base.device),
            self._precision,
        )

    def _name(self, texts: TokenizedTexts, start: Start) -> str:
        """Return the name of the folder of one set of texts at one start."""
        identity = (
            f"{self.base.digest} {self.base.device.type} {torch.__version__}"
            f" {texts.digest} {start.layer} {start.products} {self._precision} {LAYOUT}"
        )
        return hashlib.sha256(identity.encode()).hexdigest()

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

    def _computed(self, texts: TokenizedTexts, rows: Indices, start: Start) -> Known:
        """Compute what is known at a start, from the highest one below it that anybody enters.

        From what was rounded, a block would get other bits than from the beginning.
        """
        exact = self._precision == "float32"
        lower = [replace(start, layer=layer) for layer in range(start.layer)] if exact else []
        known = [s for s in lower if s != BEGINNING and self._is_entered(texts, s)]
        below = Entrance(start=known[-1], prefixes=self) if known else WHOLE
        with below.used_for(texts, rows):
            return self._compute(texts.pad(rows), start).each(self._rounded)

    def _is_entered(self, texts: TokenizedTexts, start: Start) -> bool:
        """Return whether a start is the population's, or another process has begun there."""
        return start.layer in self._entered or (self._folder / self._name(texts, start)).is_dir()

    def _rounded(self, hidden: Tensor) -> Tensor:
        """Return activations in the precision in which they are kept.

        Half precision ends at 65 504, which few models come near; what lies beyond stops there.
        """
        if self._precision == "float32":
            return hidden.float()
        most = torch.finfo(torch.float16).max
        return hidden.float().clamp(-most, most).half()

    def _gives_the_same(self, start: Start) -> bool:
        """Return whether entering a layer with what it was given before changes nothing."""
        words = self.base.tokenizer.vocab_size
        ids = torch.arange(2 * TRIED_TOKENS).reshape(2, -1) % words
        mask = torch.ones_like(ids)
        mask[1, TRIED_TOKENS // 2 :] = 0

        def as_kept(part: Tensor) -> Tensor:
            return self._rounded(part).to(part.dtype) * mask.unsqueeze(-1).to(part.device)

        try:
            padded = Padded(ids, mask)
            whole = self._last_hidden(padded)
            with entering(self.base, start, self._compute(padded, start).each(as_kept)):
                entered = self._last_hidden(padded)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
            return False  # its layers take or give something else than one tensor
        difference = (entered - whole)[mask.bool()].abs().max()
        most = TOLERANCES[self._precision] * whole[mask.bool()].abs().max()
        return bool(difference <= most)

    @torch.no_grad()
    def _compute(self, texts: Padded, start: Start) -> Known:
        # Adapters that are on the base now may draw dropout on the way: not at training's expense.
        with torch.random.fork_rng(devices=[]):
            return known_before(self.base, start, **texts.on(self.base.device).inputs())

    @torch.no_grad()
    def _last_hidden(self, texts: Padded) -> Tensor:
        inputs = texts.on(self.base.device).inputs()
        found: Tensor = self.base.model(**inputs).last_hidden_state
        return found.float().cpu()


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
