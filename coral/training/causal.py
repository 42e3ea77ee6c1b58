"""Causal language models: their decoder is the base, their output embedding a frozen head.

Layers, adapters, prefixes and checkpoints know the decoder alone, as if it had been loaded without
its head. The head turns hidden states into logits just where tokens are scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from coral.errors import ModelError

TOLERANCE = {torch.float32: 1e-4}
"""How far logits made here may be from the model's own, relative to their largest, by dtype."""
COARSE_TOLERANCE = 0.05
"""In half precision."""
TRIED_TOKENS = 8
"""Tokens on which that is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageHead:
    """What a causal language model has beside its decoder.

    Attributes:
        model: the whole, which shares the decoder with the base.
        prefix: dotted name of the decoder in it.
        projection: the output embedding, ``hidden_size`` to vocabulary.
        factor: that logits are multiplied with.
        softcap: logits are kept within plus and minus this by a tanh; None if they are not.
    """

    model: PreTrainedModel
    prefix: str
    projection: nn.Module
    factor: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Return ``(..., vocabulary)`` in float32 for ``(..., hidden_size)``."""
        weight = next(self.projection.parameters())
        if weight.dtype.is_floating_point and not torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(weight.dtype)
        logits: Tensor = self.projection(hidden).float()
        if self.factor != 1:
            logits = logits * self.factor
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def separate(lm: PreTrainedModel, name: str) -> tuple[PreTrainedModel, LanguageHead]:
    """Return a causal language model's decoder, and its head apart.

    Args:
        name: of the model, for errors.

    Raises:
        ModelError: the model is not causal, or makes its logits in a way that Coral doesn't know.
    """
    decoder, projection = lm.get_decoder(), lm.get_output_embeddings()
    prefix = next((path for path, module in lm.named_modules() if module is decoder), "")
    if not prefix or projection is None:
        raise ModelError(
            f"base model {name!r}: {type(lm).__name__} must hold a decoder and an output embedding;"
            " Coral finds none.\nUse a decoder such as Llama, Qwen or Gemma for tasks of type sft."
        )
    config: Any = lm.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    head = LanguageHead(
        model=lm,
        prefix=prefix,
        projection=projection,
        factor=float(scale) / float(getattr(config, "logits_scaling", None) or 1.0),
        softcap=getattr(config, "final_logit_softcapping", None),
    )
    _try(lm, decoder, head, name)
    return decoder, head


@torch.no_grad()
def _try(lm: PreTrainedModel, decoder: PreTrainedModel, head: LanguageHead, name: str) -> None:
    """Compare logits with the model's own, and look whether tokens see what follows them."""
    words = _words(lm)
    ids = (torch.arange(TRIED_TOKENS, device=lm.device) * 7 + 1)[None] % words
    hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
    tolerance = TOLERANCE.get(hidden.dtype, COARSE_TOLERANCE)
    half = TRIED_TOKENS // 2
    begun = decoder(input_ids=ids[:, :half], use_cache=False).last_hidden_state
    difference = (begun - hidden[:, :half]).abs().max()
    if not difference <= 10 * tolerance * hidden.abs().max():
        raise ModelError(
            f"base model {name!r} must be causal for tasks of type sft, but in"
            f" {type(lm).__name__} a token's state depends on what follows it.\nUse a decoder such"
            " as Llama, Qwen or Gemma."
        )
    expected = lm(input_ids=ids, use_cache=False).logits.float()
    difference = (head.logits(hidden) - expected).abs().max()
    if not difference <= tolerance * expected.abs().max():
        raise ModelError(
            f"base model {name!r}: {type(lm).__name__} makes its logits in a way that Coral doesn't"
            f" know: they are off by {float(difference):.3g}.\nUse another model for tasks of type"
            " sft."
        )


def _words(model: PreTrainedModel) -> int:
    """Return the size of a model's vocabulary."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


@torch.no_grad()
def require_packing(decoder: PreTrainedModel) -> None:
    """Check that samples which share a row don't see each other.

    Raises:
        ModelError: they do.
    """
    words = _words(decoder)
    one = (torch.arange(TRIED_TOKENS, device=decoder.device) * 7 + 1)[None] % words
    row, positions = one.repeat(1, 2), torch.arange(TRIED_TOKENS, device=one.device).repeat(2)
    alone = decoder(input_ids=one, use_cache=False).last_hidden_state
    packed = decoder(input_ids=row, position_ids=positions[None], use_cache=False).last_hidden_state
    tolerance = max(TOLERANCE.get(alone.dtype, COARSE_TOLERANCE), 1e-4)
    if not (packed[:, TRIED_TOKENS:] - alone).abs().max() <= tolerance * alone.abs().max():
        raise ModelError(
            f"{type(decoder).__name__} lets samples that share a row see each other.\nRemove"
            " `sample_packing`."
        )
