from __future__ import annotations

import copy
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from coral.flops import BEGINNING, Start
from coral.training import prefix as prefix_module
from coral.training.base import BaseModel, load_base
from coral.training.blocks import Precision
from coral.training.checkpoint import read
from coral.training.encoder import MultiTaskEncoder, adapted
from coral.training.prefix import WHOLE, Prefixes
from coral.training.texts import TokenizedTexts, tokenize
from coral.training.trainer import LoraTrainer
from tests.training.conftest import SEED, MemoryCheckpoints, make_job, plan
from tests.training.models import DEPTH, FILLERS, animals, colours, load, save_model, targets

FAMILIES = ("bert", "distilbert", "modernbert", "llama", "qwen3", "gpt2")
HEADS = {"one": 2}


def texts_of(base: BaseModel, lengths: tuple[int, ...]) -> TokenizedTexts:
    words = [FILLERS[(3 * i + j) % len(FILLERS)] for i, n in enumerate(lengths) for j in range(n)]
    texts, start = [], 0
    for length in lengths:
        texts.append(" ".join(words[start : start + length]))
        start += length
    return tokenize(base.tokenizer, tuple(texts), 16)


def vectors_and_gradients(
    encoder: MultiTaskEncoder, texts: TokenizedTexts, rows: np.ndarray[Any, Any]
) -> list[Tensor]:
    torch.manual_seed(1)
    for name, parameter in encoder.adapter.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    vectors = encoder.encode_texts(texts, rows)
    encoder.heads["one"](vectors).square().sum().backward()
    gradients = [p.grad for p in encoder.parameters_by_name().values() if p.grad is not None]
    return [vectors.detach(), *gradients]


def known(
    prefixes: Prefixes, texts: TokenizedTexts, rows: np.ndarray[Any, Any], layer: int
) -> Tensor:
    found = prefixes.of(texts, Start(layer=layer, products=True))
    assert found is not None
    return torch.cat(found.known(rows).parts, dim=-1)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], BaseModel]:
    loaded: dict[tuple[str, str], BaseModel] = {}
    torch.set_num_threads(1)

    def base_of(family: str, attention: str) -> BaseModel:
        if (family, attention) not in loaded:
            folder = save_model(tmp_path_factory.mktemp("model"), family)
            base = load_base(str(folder), device="cpu", trust_remote_code=False)
            base.model.set_attn_implementation(attention)
            loaded[family, attention] = base
        return loaded[family, attention]

    return base_of


@given(
    family=st.sampled_from(FAMILIES),
    attention=st.sampled_from(["eager", "sdpa"]),
    layer=st.integers(0, DEPTH - 1),
    products=st.booleans(),
    lengths=st.lists(st.integers(1, 14), min_size=2, max_size=8).map(tuple),
    data=st.data(),
)
def test_vectors_and_gradients_are_those_without_sharing(
    bases: Callable[[str, str], BaseModel],
    tmp_path_factory: pytest.TempPathFactory,
    family: str,
    attention: str,
    layer: int,
    products: bool,
    lengths: tuple[int, ...],
    data: st.DataObject,
) -> None:
    base = bases(family, attention)
    texts = texts_of(base, lengths)
    order = data.draw(st.permutations(range(len(lengths))))
    rows = np.array(order[: data.draw(st.integers(1, len(order)))])
    inside = [m.name.split(".")[-1] for m in base.linear_modules if m.layer is not None]
    target = data.draw(st.sampled_from(["all-linear", *dict.fromkeys(inside)]))
    values = {
        "adapter.layers": f"top-{DEPTH - layer}",
        "adapter.target_modules": target,
        "adapter.dora": data.draw(st.booleans()),
    }
    shared = Prefixes(base, tmp_path_factory.mktemp("prefixes"))
    shared.shares_products = products
    found = []
    for prefixes in (None, shared):
        with adapted(base, plan(values), targets(HEADS), SEED, prefixes=prefixes) as encoder:
            expected = Start(layer=layer, products=products) if prefixes else BEGINNING
            assert encoder.entrance.start == expected
            found.append(vectors_and_gradients(encoder, texts, rows))
    for alone, shared in zip(*found, strict=True):
        torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-5)


@pytest.fixture
def trained(base: BaseModel, tmp_path: Path) -> Callable[[Prefixes | None], dict[str, Any]]:
    def train(prefixes: Prefixes | None) -> dict[str, Any]:
        store = MemoryCheckpoints()
        tasks = load(colours(), animals())
        trainer = LoraTrainer(base, tasks, store, lambda progress: None, prefixes)
        values = {"adapter.layers": "top-1", "adapter.dropout": 0.1}
        (outcome,) = trainer.train([make_job(values)])
        assert outcome.failure is None
        weights = read(store.get(outcome.checkpoint or ""), base.digest, trainer._runner._outputs)
        return {"outcome": outcome, "weights": weights.state}

    return train


def test_losses_metrics_and_final_weights_are_those_without_sharing(
    base: BaseModel, tmp_path: Path, trained: Callable[[Prefixes | None], dict[str, Any]]
) -> None:
    alone, shared = trained(None), trained(Prefixes(base, tmp_path))
    assert shared["outcome"].curve.loss == pytest.approx(alone["outcome"].curve.loss, abs=1e-4)
    for metric, value in alone["outcome"].metrics.items():
        if metric != "train_cost":
            assert shared["outcome"].metrics[metric] == pytest.approx(value, abs=1e-4, nan_ok=True)
    assert shared["weights"].keys() == alone["weights"].keys()
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(shared["weights"][name], tensor, rtol=1e-5, atol=1e-5)


def test_in_half_precision_training_ends_nearly_where_it_did(
    base: BaseModel, tmp_path: Path, trained: Callable[[Prefixes | None], dict[str, Any]]
) -> None:
    alone, shared = trained(None), trained(Prefixes(base, tmp_path, None, "float16"))
    losses = shared["outcome"].curve.loss
    assert losses == pytest.approx(alone["outcome"].curve.loss, abs=5e-3)
    assert losses != alone["outcome"].curve.loss


def test_what_is_not_computed_does_not_count_as_cost(
    base: BaseModel, tmp_path: Path, trained: Callable[[Prefixes | None], dict[str, Any]]
) -> None:
    alone, shared = trained(None)["outcome"], trained(Prefixes(base, tmp_path))["outcome"]
    assert shared.cost.teraflops < 0.7 * alone.cost.teraflops
    assert shared.metrics["train_cost"] == pytest.approx(shared.cost.teraflops)


class TestFiles:
    TEXTS = (3, 9, 1, 14, 6)
    ROWS = np.array([3, 0, 4])

    @pytest.fixture
    def texts(self, base: BaseModel) -> TokenizedTexts:
        return texts_of(base, self.TEXTS)

    @pytest.fixture(autouse=True)
    def _small_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prefix_module, "tokens_at_once", lambda device: 24)

    def test_another_process_computes_nothing_again(
        self,
        base: BaseModel,
        texts: TokenizedTexts,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        first = known(Prefixes(base, tmp_path), texts, self.ROWS, 2)

        def fail(*_: object) -> Tensor:
            raise AssertionError("computed again")

        monkeypatch.setattr(Prefixes, "_compute", fail)
        assert torch.equal(known(Prefixes(base, tmp_path), texts, self.ROWS, 2), first)
        with pytest.raises(AssertionError, match="computed again"):
            known(Prefixes(base, tmp_path), texts, np.array([1]), 2)

    def test_while_another_process_computes_a_block_the_others_are_computed(
        self, base: BaseModel, texts: TokenizedTexts, tmp_path: Path
    ) -> None:
        alone = known(Prefixes(base, tmp_path / "a"), texts, self.ROWS, 2)
        prefixes = Prefixes(base, tmp_path / "b")
        prefix = prefixes.of(texts, Start(layer=2, products=True))
        assert prefix is not None
        (claims,) = (tmp_path / "b").glob("*/claims")
        wanted = int(prefix._block_of[self.ROWS[0]])
        code = (
            "import fcntl, sys, time\n"
            f"file = open({str(claims)!r}, 'ab')\n"
            f"fcntl.lockf(file, fcntl.LOCK_EX, 1, {wanted})\n"
            "print('claimed', flush=True)\n"
            "time.sleep(1.5)\n"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"claimed\n"
            started = time.monotonic()
            assert torch.equal(known(prefixes, texts, self.ROWS[:1], 2), alone[:1])
            assert time.monotonic() - started > 1.0
        assert len(prefix._blocks) > 1
        assert prefix._sums[:, 0].all()

    def test_a_damaged_block_is_computed_again(
        self, base: BaseModel, texts: TokenizedTexts, tmp_path: Path
    ) -> None:
        expected = known(Prefixes(base, tmp_path), texts, self.ROWS, 2)
        (file,) = tmp_path.glob("*/known.float32")
        content = bytearray(file.read_bytes())
        content[:64] = bytes(64)
        content[-64:] = b"\x7f" * 64
        file.write_bytes(content)
        assert torch.equal(known(Prefixes(base, tmp_path), texts, self.ROWS, 2), expected)

    @pytest.mark.parametrize("precision", ["float32", "float16"])
    def test_who_else_needs_which_texts_first_changes_no_bit(
        self, base: BaseModel, texts: TokenizedTexts, tmp_path: Path, precision: Precision
    ) -> None:
        first, others, from_below = (
            Prefixes(base, tmp_path / name, precision=precision) for name in "abc"
        )
        alone = known(first, texts, self.ROWS, 2)
        for row in (2, 1, 4, 0, 3):
            known(others, texts, np.array([row]), 2)
        known(from_below, texts, self.ROWS, 1)
        assert torch.equal(known(others, texts, self.ROWS, 2), alone)
        assert torch.equal(known(from_below, texts, self.ROWS, 2), alone)

    def test_what_another_process_knows_of_a_lower_layer_is_begun_with(
        self, base: BaseModel, texts: TokenizedTexts, tmp_path: Path
    ) -> None:
        alone = known(Prefixes(base, tmp_path / "alone"), texts, self.ROWS, 2)
        known(Prefixes(base, tmp_path / "both"), texts, np.arange(len(self.TEXTS)), 1)
        entered: list[int] = []
        handles = [
            layer.attention.register_forward_hook(lambda *_, number=number: entered.append(number))
            for number, layer in enumerate(base.stack)
        ]
        try:
            assert torch.equal(known(Prefixes(base, tmp_path / "both"), texts, self.ROWS, 2), alone)
        finally:
            for handle in handles:
                handle.remove()
        assert set(entered) == {1}

    def test_what_the_population_enters_is_kept_as_passes_come_by(
        self, base: BaseModel, texts: TokenizedTexts, tmp_path: Path
    ) -> None:
        alone = [known(Prefixes(base, tmp_path / "alone"), texts, self.ROWS, n) for n in (1, 2)]
        first, second = Prefixes(base, tmp_path / "both"), Prefixes(base, tmp_path / "both")
        first.entrance(2, entered=(1, 2))
        assert torch.equal(known(first, texts, self.ROWS, 2), alone[1])
        kept = second.of(texts, Start(layer=1, products=True))
        assert kept is not None
        assert kept._sums[kept._block_of[self.ROWS], 0].all()
        assert torch.equal(known(second, texts, self.ROWS, 1), alone[0])

    def test_half_precision_takes_half_the_room_and_is_as_close_as_it_says(
        self, base: BaseModel, texts: TokenizedTexts, tmp_path: Path
    ) -> None:
        whole, half = Prefixes(base, tmp_path), Prefixes(base, tmp_path, None, "float16")
        exact, rounded = (known(prefixes, texts, self.ROWS, 2) for prefixes in (whole, half))
        assert not torch.equal(rounded, exact)
        torch.testing.assert_close(rounded, exact, rtol=2**-11, atol=1e-7)
        sizes = {file.suffix: file.stat().st_size for file in tmp_path.glob("*/known.*")}
        assert sizes[".float16"] * 2 == sizes[".float32"]
        assert (whole.feature_bytes, half.feature_bytes) == (4, 2)

    @pytest.mark.parametrize(("factor", "layer"), [(1.0, 2), (1e9, 0)])
    def test_a_base_that_half_precision_changes_too_much_is_not_entered(
        self, base: BaseModel, tmp_path: Path, factor: float, layer: int
    ) -> None:
        """Activations that it can't hold, as where a layer norm's weight is huge."""
        model = copy.deepcopy(base.model)
        loud = replace(base, model=model, stack=model.encoder.layer)
        with torch.no_grad():
            loud.stack[1].output.LayerNorm.weight.mul_(factor)
        assert Prefixes(loud, tmp_path).entrance(2).start.layer == 2
        assert Prefixes(loud, tmp_path, None, "float16").entrance(2).start.layer == layer

    def test_other_texts_and_another_base_have_files_of_their_own(
        self, base: BaseModel, texts: TokenizedTexts, tmp_path: Path
    ) -> None:
        known(Prefixes(base, tmp_path), texts, self.ROWS, 2)
        known(Prefixes(base, tmp_path), texts_of(base, (3, 9)), np.array([0]), 2)
        known(Prefixes(replace(base, digest="other"), tmp_path), texts, self.ROWS, 2)
        assert len(list(tmp_path.iterdir())) == 3

    def test_what_was_not_used_for_longest_makes_room(
        self, base: BaseModel, texts: TokenizedTexts, tmp_path: Path
    ) -> None:
        each = len(texts.ids) * 4 * base.hidden_size * 4  # with queries, keys and values
        prefixes = Prefixes(base, tmp_path, most_bytes=2 * each + 100)
        seen = []
        for cut in (1, 2):
            known(prefixes, texts, self.ROWS, cut)
            seen.append({folder.name for folder in tmp_path.iterdir()})
        for age, (name,) in enumerate((seen[0], seen[1] - seen[0])):
            os.utime(tmp_path / name, (age, age))
        other = texts_of(base, (*self.TEXTS[1:], self.TEXTS[0]))
        known(Prefixes(base, tmp_path, most_bytes=2 * each + 100), other, self.ROWS, 1)
        left = {folder.name for folder in tmp_path.iterdir()}
        assert len(left) == 2
        assert left & seen[1] == seen[1] - seen[0]
        assert known(prefixes, texts, self.ROWS, 1).any()  # what is open stays usable

    def test_on_a_full_disk_all_is_computed_as_before(
        self,
        base: BaseModel,
        texts: TokenizedTexts,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
        top = plan({"adapter.layers": "top-1"})
        found = []
        for prefixes in (None, Prefixes(base, tmp_path)):
            with adapted(base, top, targets(HEADS), SEED, prefixes=prefixes) as encoder:
                found.append(encoder.encode_texts(texts, self.ROWS))
        assert torch.equal(*found)


class TestWhatCannotBeEntered:
    def test_a_base_whose_layers_hand_on_more_than_activations(
        self, base: BaseModel, tmp_path: Path
    ) -> None:
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=base.tokenizer.vocab_size,
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=DEPTH,
            num_heads=2,
        )
        model = T5EncoderModel(config).eval()
        other = replace(base, model=model, stack=model.encoder.block)
        assert Prefixes(other, tmp_path).entrance(1) == WHOLE

    def test_an_adapter_beside_the_stack(self, base: BaseModel, tmp_path: Path) -> None:
        prefixes = Prefixes(base, tmp_path)
        values = {"adapter.layers": "all", "adapter.target_modules": ("pooler.dense", "query")}
        with adapted(base, plan(values), targets(HEADS), SEED, prefixes=prefixes) as encoder:
            assert encoder.entrance == WHOLE

    def test_a_layer_that_is_not_among_those_kept(self, base: BaseModel, tmp_path: Path) -> None:
        prefixes = Prefixes(base, tmp_path)
        found = [prefixes.entrance(2, kept).start for kept in (None, (2,), (1,), ())]
        kept = [Start(layer=layer) for layer in (2, 1)]
        assert found == [Start(layer=2, products=True), *kept, BEGINNING]

    def test_the_base_is_whole_again_afterwards(self, base: BaseModel, tmp_path: Path) -> None:
        texts = texts_of(base, (3, 5))
        ids, mask, _ = texts.pad(np.array([0, 1]))
        before = base.model(input_ids=ids, attention_mask=mask).last_hidden_state
        prefixes = Prefixes(base, tmp_path)
        with (
            adapted(
                base, plan({"adapter.layers": "top-1"}), targets(HEADS), SEED, None, prefixes
            ) as made,
            pytest.raises(RuntimeError, match="stop"),
            made.entrance.used_for(texts, np.array([0, 1])),
        ):
            raise RuntimeError("stop")
        assert torch.equal(base.model(input_ids=ids, attention_mask=mask)[0], before)
