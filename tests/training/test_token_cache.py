"""Tokenized texts in the cache: made once, whole, and made again where they are damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from coral.records import Outcome
from coral.training import token_cache as tokens
from coral.training.base import BaseModel
from coral.training.texts import Content, TokenizedTexts, tokenize
from coral.training.token_cache import FORSAKEN_SECONDS, TokenCache
from tests.training.conftest import MemoryCheckpoints, make_job
from tests.training.models import colours, load

TEXTS = ("red w1", "blue", "green w2 w3 w4")
PAIRS = (("red", "w1 w2"), ("blue w3", "w4"))

Damage = Callable[[Path], object]


@pytest.fixture
def cache(base: BaseModel, tmp_path: Path) -> TokenCache:
    return TokenCache(base.tokenizer, base.digest, tmp_path)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def assert_same(one: TokenizedTexts, two: TokenizedTexts) -> None:
    assert one.digest == two.digest
    assert one.pad_id == two.pad_id
    np.testing.assert_array_equal(one.ids, two.ids)
    np.testing.assert_array_equal(one.starts, two.starts)
    assert (one.segments is None) == (two.segments is None)
    if one.segments is not None and two.segments is not None:
        np.testing.assert_array_equal(one.segments, two.segments)


def no_tokenizing(*_: object) -> TokenizedTexts:
    raise AssertionError("these texts were tokenized before")


@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_what_is_kept_is_what_the_tokenizer_gave(
    base: BaseModel, cache: TokenCache, texts: tuple[Content, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tokenize(base.tokenizer, texts, 6)
    assert_same(cache(texts, 6), expected)
    monkeypatch.setattr(tokens, "tokenize", no_tokenizing)
    kept = cache(texts, 6)
    assert_same(kept, expected)
    assert isinstance(kept.ids.base, np.memmap)


def test_another_length_text_or_order_is_another_entry(cache: TokenCache, tmp_path: Path) -> None:
    asked: list[tuple[tuple[Content, ...], int]] = [(TEXTS, 6), (TEXTS, 5), (TEXTS[::-1], 6)]
    asked += [(PAIRS, 6), (("red", "w1"), 6), ((("red", "w1"),), 6), (("red w1",), 6)]
    asked += [(("re", "d w1"), 6)]
    for texts, length in asked:
        cache(texts, length)
    assert len(entries(tmp_path)) == len(asked)


def test_a_tokenizer_with_other_words_is_another_entry(
    base: BaseModel, base_folder: Path, tmp_path: Path
) -> None:
    other = AutoTokenizer.from_pretrained(base_folder)
    assert TokenCache(other, "", tmp_path)(TEXTS, 6).digest == tokenize(other, TEXTS, 6).digest
    other.add_tokens(["green w2"])
    found = TokenCache(other, "", tmp_path)(TEXTS, 6)
    assert_same(found, tokenize(other, TEXTS, 6))
    assert len(entries(tmp_path)) == 2


def test_what_the_tokenizer_did_before_changes_no_entry(
    base: BaseModel, base_folder: Path, tmp_path: Path
) -> None:
    used = AutoTokenizer.from_pretrained(base_folder)
    used(["red"], truncation=True, max_length=3, padding="max_length")
    for tokenizer in (used, AutoTokenizer.from_pretrained(base_folder)):
        TokenCache(tokenizer, "", tmp_path)(TEXTS, 6)
    assert len(entries(tmp_path)) == 1


def _truncate(path: Path) -> None:
    os.truncate(path / "ids.npy", (path / "ids.npy").stat().st_size - 8)


def _flip(path: Path) -> None:
    content = bytearray((path / "ids.npy").read_bytes())
    content[-8] ^= 1
    (path / "ids.npy").write_bytes(content)


DAMAGES: dict[str, Damage] = {
    "a truncated array": _truncate,
    "a flipped bit": _flip,
    "no array": lambda path: (path / "starts.npy").unlink(),
    "no facts": lambda path: (path / "tokens.json").unlink(),
    "empty facts": lambda path: (path / "tokens.json").write_text(""),
    "facts of another form": lambda path: (path / "tokens.json").write_text('{"arrays": ["x"]}'),
    "an array of another type": lambda path: np.save(path / "ids.npy", np.zeros(3, np.int32)),
    "an array that is none": lambda path: (path / "ids.npy").write_bytes(b"\x93NUMPY"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_again(
    base: BaseModel,
    cache: TokenCache,
    tmp_path: Path,
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = tokenize(base.tokenizer, TEXTS, 6)
    cache(TEXTS, 6)
    [place] = entries(tmp_path)
    DAMAGES[damage](place)
    assert_same(cache(TEXTS, 6), expected)
    monkeypatch.setattr(tokens, "tokenize", no_tokenizing)
    assert_same(cache(TEXTS, 6), expected)
    assert list(tmp_path.iterdir()) == [place]


def test_tokens_in_use_outlast_their_entry(
    base: BaseModel, cache: TokenCache, tmp_path: Path
) -> None:
    cache(TEXTS, 6)
    kept = cache(TEXTS, 6)
    [place] = entries(tmp_path)
    for path in place.iterdir():
        path.unlink()
    place.rmdir()
    assert_same(kept, tokenize(base.tokenizer, TEXTS, 6))


def test_a_cache_that_cant_be_written_costs_time_alone(base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = TokenCache(base.tokenizer, base.digest, tmp_path / "file" / "tokens")(TEXTS, 6)
    assert_same(found, tokenize(base.tokenizer, TEXTS, 6))


def test_what_killed_processes_left_behind_is_cleared(cache: TokenCache, tmp_path: Path) -> None:
    old, new = (tmp_path / f".{name}.tmp" for name in ("old", "new"))
    for draft in (old, new):
        draft.mkdir()
    past = old.stat().st_mtime - 2 * FORSAKEN_SECONDS
    os.utime(old, (past, past))
    cache(TEXTS, 6)
    assert new.exists()
    assert not old.exists()


WRITER = """
import sys
from pathlib import Path
from transformers import AutoTokenizer
from coral.training.token_cache import TokenCache
cache = TokenCache(AutoTokenizer.from_pretrained(sys.argv[1]), "", Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
print(*(cache([f"red w{n % 9} blue"] * 2000, 8).digest for n in range(20)))
"""


def test_processes_that_write_the_same_at_once_get_the_same(
    base_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", WRITER, str(base_folder), str(tmp_path)]
    pipes = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    writers = [pipes(command) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    told = {writer.communicate("go\n", timeout=60)[0] for writer in writers}
    assert len(told) == 1
    assert len(told.pop().split()) == 20
    assert len(entries(tmp_path)) == 9
    assert len(list(tmp_path.iterdir())) == 9


def test_a_trainer_with_kept_tokens_trains_the_same(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coral.training.trainer import LoraTrainer

    outcomes: list[Outcome] = []
    for folder in (None, tmp_path, tmp_path):
        trainer = LoraTrainer(
            base, load(colours()), MemoryCheckpoints(), lambda progress: None, tokens=folder
        )
        trainer.survey()
        [outcome] = trainer.train([make_job(stage=0)])
        outcomes.append(replace(outcome, cost=outcomes[0].cost if outcomes else outcome.cost))
        if folder:
            monkeypatch.setattr(tokens, "tokenize", no_tokenizing)
    assert outcomes[0].failure is None
    assert {outcome.checkpoint for outcome in outcomes} == {outcomes[0].checkpoint}
    assert len({str(outcome.metrics) for outcome in outcomes}) == 1
