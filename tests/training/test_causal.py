"""A language model's decoder and head, apart and together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, LlamaForCausalLM

from coral.errors import ModelError
from coral.training.base import BaseModel, load_base
from coral.training.causal import require_packing
from tests.training.language import (
    DEPTH,
    build_language_model,
    build_tokenizer,
    save_language_model,
)

FAMILIES = ("llama", "qwen3", "gemma", "gemma2", "gemma3", "granite", "cohere", "gpt2")
IDS = torch.arange(5, 25).reshape(2, 10)


def loaded(folder: Path, **settings: Any) -> BaseModel:
    return load_base(str(folder), device="cpu", trust_remote_code=False, causal=True, **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_and_head_give_the_logits_of_the_whole_model(tmp_path: Path, family: str) -> None:
    base = loaded(save_language_model(tmp_path, family))
    assert base.depth == DEPTH
    assert base.language is not None
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path)(input_ids=IDS).logits
        found = base.language.logits(base.model(input_ids=IDS).last_hidden_state)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    require_packing(base.model)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_a_decoder_has_the_same_modules_with_and_without_its_head(
    tmp_path: Path, family: str
) -> None:
    whole = loaded(save_language_model(tmp_path, family))
    bare = load_base(str(tmp_path), device="cpu", trust_remote_code=False)
    assert whole.linear_modules == bare.linear_modules
    assert whole.digest == bare.digest


def test_an_encoder_is_refused_for_it_sees_what_follows(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"must be causal.*a token's state depends on"):
        loaded(save_language_model(tmp_path, "bert"))


def test_a_decoder_saved_without_its_head_is_refused(tmp_path: Path) -> None:
    AutoModel.from_config(build_language_model("llama", 300).config).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"it lacks lm_head\.weight"):
        loaded(tmp_path)


def test_logits_made_in_an_unknown_way_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_language_model(tmp_path)
    forward = LlamaForCausalLM.forward

    def shifted(self: Any, *args: Any, **inputs: Any) -> Any:
        found = forward(self, *args, **inputs)
        found.logits = found.logits + torch.arange(found.logits.shape[-1])
        return found

    monkeypatch.setattr(LlamaForCausalLM, "forward", shifted)
    with pytest.raises(ModelError, match="logits in a way that Coral doesn't"):
        loaded(tmp_path)


def test_bfloat16_holds_the_weights_in_it_and_adapters_are_not_folded_in(tmp_path: Path) -> None:
    base = loaded(save_language_model(tmp_path, "qwen3"), precision="bfloat16")
    assert next(base.model.parameters()).dtype == torch.bfloat16
    assert not base.merges
    with base.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_four_bits_without_their_library_say_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install bitsandbytes"):
        loaded(save_language_model(tmp_path), load_in_4bit=True)
