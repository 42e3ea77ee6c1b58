"""Rows of texts, and what their trained tokens cost."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coral.ports import CausalSettings
from coral.training import token_rows
from coral.training.base import load_base
from coral.training.conversations import Renderer
from coral.training.texts import TokenizedTexts, tokenize_answers
from coral.training.token_rows import (
    shared_rows,
    summed_loss,
    token_batch,
    token_statistics,
)
from tests.training.language import build_tokenizer, conversation, save_language_model
from tests.training.test_conversations import chat

CPU = torch.device("cpu")
TALKS = [
    conversation("capital of Peru?", "Lima."),
    conversation("capital of Norway, and how do you know?", "Oslo. I looked it up."),
    conversation("Hi", "Hi"),
    conversation("capital of Cuba?", "Havana", system="Be brief."),
    conversation("2+2?", "4"),
]


@pytest.fixture(scope="module")
def texts() -> TokenizedTexts:
    tokenizer = build_tokenizer()
    return tokenize_answers(
        tokenizer, Renderer("t", tokenizer, CausalSettings()).render(chat(*TALKS)), 256
    )


def test_rows_are_filled_and_no_two_texts_overlap() -> None:
    lengths = np.array([3, 9, 4, 1, 6, 2, 5])
    row, start = shared_rows(lengths, 10)
    assert row.max() + 1 == 3
    for number in range(3):
        own = np.flatnonzero(row == number)
        taken = sorted((start[i], start[i] + lengths[i]) for i in own)
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(taken))
        assert taken[-1][1] <= 10


def test_a_text_longer_than_the_rest_sets_the_width() -> None:
    row, start = shared_rows(np.array([4, 20, 6]), 8)
    assert row.tolist() == [1, 0, 1]
    assert start.tolist() == [6, 0, 0]


@pytest.mark.parametrize("capacity", [None, 40, 500])
def test_batches_hold_each_text_with_positions_of_its_own(
    texts: TokenizedTexts, capacity: int | None
) -> None:
    rows = np.array([3, 0, 4, 2])
    batch = token_batch(texts, rows, CPU, capacity)
    ids, positions = batch.ids.flatten()[batch.places], batch.positions.flatten()[batch.places]
    own = [texts.ids[texts.starts[i] : texts.starts[i + 1]] for i in rows]
    assert ids.tolist() == np.concatenate(own).tolist()
    assert positions.tolist() == np.concatenate([np.arange(len(one)) for one in own]).tolist()
    counts = torch.bincount(batch.owners, minlength=len(rows))
    assert counts.tolist() == texts.trained_tokens[rows].tolist()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "gemma2", "gemma3"])
def test_packing_changes_neither_states_nor_losses_nor_gradients(
    tmp_path: Path, texts: TokenizedTexts, family: str
) -> None:
    folder = save_language_model(tmp_path, family)
    base = load_base(str(folder), device="cpu", trust_remote_code=False, causal=True)
    head = base.language
    assert head is not None
    rows = np.arange(len(TALKS))
    weight = base.model.get_submodule("layers.0.mlp.up_proj").weight
    found: list[tuple[Any, ...]] = []
    for capacity in (None, 120):
        batch = token_batch(texts, rows, CPU, capacity)
        weight.requires_grad_(True).grad = None
        model: Any = base.model
        hidden = model(
            input_ids=batch.ids, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        loss = summed_loss(head, batch.states(hidden), batch.targets)
        loss.backward()
        tokens_of = hidden.detach().flatten(0, 1)[batch.places]
        statistics = token_statistics(head, batch, hidden.detach(), len(rows))
        assert weight.grad is not None
        found.append((tokens_of, loss.detach(), weight.grad.clone(), torch.tensor(statistics)))
        assert (len(batch.ids) == len(rows)) == (capacity is None)
    for alone, packed in zip(*found, strict=True):
        scale = float(alone.abs().max())
        torch.testing.assert_close(packed / scale, alone / scale, atol=1e-5, rtol=0)


def test_statistics_are_those_of_the_model_s_own_loss(
    tmp_path: Path, texts: TokenizedTexts
) -> None:
    base = load_base(
        str(save_language_model(tmp_path)), device="cpu", trust_remote_code=False, causal=True
    )
    assert base.language is not None and texts.trained is not None
    batch = token_batch(texts, np.arange(len(TALKS)), CPU, 64)
    with torch.no_grad():
        model: Any = base.model
        hidden = model(input_ids=batch.ids, position_ids=batch.positions).last_hidden_state
        found = token_statistics(base.language, batch, hidden, len(TALKS))
        for i in range(len(TALKS)):
            own = slice(texts.starts[i], texts.starts[i + 1])
            ids = torch.from_numpy(texts.ids[own])[None]
            labels = torch.where(torch.from_numpy(texts.trained[own]), ids, -100)
            expected = base.language.model(input_ids=ids, labels=labels)
            count = int((labels[:, 1:] != -100).sum())
            assert found[i, 1] == count
            assert found[i, 0] == pytest.approx(float(expected.loss) * count, rel=1e-5)
            guessed = expected.logits[:, :-1].argmax(dim=-1)
            assert found[i, 2] == int((guessed == labels[:, 1:]).sum())


def test_the_loss_of_many_tokens_is_that_of_their_chunks(
    tmp_path: Path, texts: TokenizedTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_language_model(tmp_path, "gemma2")
    base = load_base(str(folder), device="cpu", trust_remote_code=False, causal=True)
    assert base.language is not None
    batch = token_batch(texts, np.arange(len(TALKS)), CPU)
    states = torch.randn(len(batch.targets), 32, requires_grad=True)
    gradients = []
    for chunk in (1024, 3):
        monkeypatch.setattr(token_rows, "CHUNK", chunk)
        loss = summed_loss(base.language, states, batch.targets)
        gradients.append((loss.detach(), *torch.autograd.grad(loss, states)))
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
