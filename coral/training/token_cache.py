"""Tokenized texts that processes and runs share."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import shutil
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from coral.training.texts import Content, TokenizedTexts, tokenize

FACTS = "tokens.json"
ARRAYS = {"ids": np.int64, "starts": np.int64, "segments": np.int8}
DRAFT = ".tmp"
FORSAKEN_SECONDS = 3600.0
"""Age at which a draft is taken for one whose process ended before it was whole."""

_LOGGER = logging.getLogger(__name__)


class TokenCache:
    """Tokenizes texts once for all processes; what is kept is mapped into their memory.

    An entry is a folder, named by the digest of the texts, the tokenizer and the length. It is
    written beside its place and renamed, so that readers find a whole one or none, and of several
    writers any may win. An entry that is not what was written is made again.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model_digest: str, folder: Path) -> None:
        """Args:
        model_digest: tells tokenizers apart that have no serialized form.
        folder: on this machine; other processes may use it too.
        """
        self._tokenizer = tokenizer
        self._model_digest = model_digest
        self._folder = folder

    def __call__(self, texts: Sequence[Content], sequence_len: int) -> TokenizedTexts:
        """Return texts as ``tokenize`` does."""
        place = self._folder / self._key(texts, sequence_len)
        found = _read(place)
        if found is None:
            found = tokenize(self._tokenizer, texts, sequence_len)
            try:
                _write(place, found)
            except OSError as error:
                _LOGGER.debug("Tokens can't be kept in %s: %s", self._folder, error)
        return found

    def _key(self, texts: Sequence[Content], sequence_len: int) -> str:
        digest = hashlib.sha256(f"{self._identity} {sequence_len}\n".encode())
        for content in texts:
            parts = (content,) if isinstance(content, str) else content
            for part in parts:
                encoded = part.encode(errors="surrogatepass")
                digest.update(b"%d:" % len(encoded) + encoded)
            digest.update(b"\n")
        return digest.hexdigest()

    @cached_property
    def _identity(self) -> str:
        """What decides how texts become tokens, besides the length."""
        tokenizer = self._tokenizer
        facts: dict[str, Any] = {
            "class": type(tokenizer).__name__,
            "names": tokenizer.model_input_names,
            "pad": tokenizer.pad_token_id,
            "side": tokenizer.truncation_side,
            "versions": [tokenizers.__version__, transformers.__version__],
        }
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            facts["model"] = self._model_digest
        else:
            told = json.loads(backend.to_str())
            # What the last call asked for; it says nothing of the next.
            facts["backend"] = told | {"truncation": None, "padding": None}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(place: Path) -> TokenizedTexts | None:
    """Return what is kept at a place; None if there is nothing, or not what was written."""
    try:
        facts = json.loads((place / FACTS).read_text())
        arrays: dict[str, NDArray[Any]] = {
            name: np.asarray(np.load(place / f"{name}.npy", mmap_mode="r"))
            for name in facts["arrays"]
        }
        if any(array.dtype != ARRAYS[name] for name, array in arrays.items()):
            return None
        found = TokenizedTexts(
            ids=arrays["ids"],
            starts=arrays["starts"],
            segments=arrays.get("segments"),
            pad_id=int(facts["pad_id"]),
        )
        return found if found.digest == facts["digest"] else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(place: Path, tokens: TokenizedTexts) -> None:
    """Put tokens in a place, which may hold what is damaged.

    Raises:
        OSError: they can't be written.
    """
    draft, old = (place.with_name(f".{secrets.token_hex(8)}{DRAFT}") for _ in range(2))
    arrays = {name: array for name in ARRAYS if (array := getattr(tokens, name)) is not None}
    facts = {"arrays": list(arrays), "pad_id": tokens.pad_id, "digest": tokens.digest}
    draft.mkdir(parents=True)
    try:
        for name, array in arrays.items():
            np.save(draft / f"{name}.npy", array)
        (draft / FACTS).write_text(json.dumps(facts))
        if place.exists():
            place.rename(old)
        draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        _clear_forsaken(place.parent)


def _clear_forsaken(folder: Path) -> None:
    for path in folder.glob(f".*{DRAFT}"):
        try:
            if time.time() - path.stat().st_mtime > FORSAKEN_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except OSError as error:
            _LOGGER.debug("The draft %s is gone: %s", path, error)
