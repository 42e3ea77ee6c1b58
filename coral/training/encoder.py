"""The trained model: a shared frozen encoder, one adapter on it, and one linear head a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

from coral.errors import CheckpointError
from coral.plan import AdapterPlan, TrainingPlan, adapted_modules
from coral.rng import derive_seed
from coral.training.base import BaseModel
from coral.training.failures import DivergedError

MAX_TORCH_SEED = 2**63 - 1


class MultiTaskEncoder(nn.Module):
    """Adapter and heads over a base; calling it gives one task's logits.

    Attributes:
        adapter: the PEFT model.
        heads: task name to linear head.
    """

    def __init__(self, adapter: PeftModel, heads: nn.ModuleDict, pooling: str) -> None:
        super().__init__()
        self.adapter = adapter
        self.heads = heads
        self.pooling = pooling

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return one float32 vector a text, ``(batch, hidden)``."""
        hidden = self.adapter(input_ids=ids, attention_mask=mask).last_hidden_state
        return pool(hidden.float(), mask, self.pooling)

    def adapter_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.adapter.parameters() if p.requires_grad]

    def state(self) -> dict[str, Tensor]:
        """Return all trained tensors under ``adapter.`` and ``head.``."""
        # PEFT would ask the hub whether the vocabulary grew; Coral leaves embeddings alone.
        own = get_peft_model_state_dict(self.adapter, save_embedding_layers=False)
        adapter = {f"adapter.{k}": v for k, v in own.items()}
        heads = {f"head.{k}": v for k, v in self.heads.state_dict().items()}
        return {name: tensor.detach().cpu() for name, tensor in {**adapter, **heads}.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what ``state`` returned.

        Raises:
            CheckpointError: a tensor is missing or left over. PEFT alone would stay silent.
        """
        expected, given = set(self.state()), set(tensors)
        if expected != given:
            raise CheckpointError(
                f"the checkpoint does not cover the model: missing {sorted(expected - given)[:3]},"
                f" left over {sorted(given - expected)[:3]}"
            )
        adapter = {k.removeprefix("adapter."): v for k, v in tensors.items() if k[0] == "a"}
        set_peft_model_state_dict(self.adapter, adapter)
        self.heads.load_state_dict(
            {k.removeprefix("head."): v for k, v in tensors.items() if k[0] == "h"}
        )

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Fold the adapter into the base for the length of the scope: evaluation gets cheaper.

        The base's own tensors are put back afterwards, so it stays exact to the bit.

        Raises:
            DivergedError: the update is not finite.
        """
        layers = [m for m in self.adapter.modules() if isinstance(m, LoraLayer)]
        originals = [layer.get_base_layer().weight.data for layer in layers]
        try:
            try:
                for layer in layers:
                    layer.merge(safe_merge=True)
            except ValueError as error:  # what a safe merge raises, and for nothing else
                raise DivergedError("the adapter's update must be finite; it was not") from error
            yield
        finally:
            for layer, original in zip(layers, originals, strict=True):
                layer.get_base_layer().weight.data = original
                layer.merged_adapters.clear()

    def train_adapter(self, mode: bool) -> None:
        """Switch dropout of the adapter alone: the base always stays in evaluation mode."""
        for module in self.adapter.modules():
            if isinstance(module, LoraLayer):
                module.lora_dropout.train(mode)


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Reduce ``(batch, length, hidden)`` to ``(batch, hidden)``."""
    match pooling:
        case "cls":
            return hidden[:, 0]
        case "last":
            return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(dim=1) - 1]
        case _:
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def lora_config(plan: AdapterPlan, base: BaseModel) -> LoraConfig:
    """Return PEFT's configuration of a plan's adapter.

    Raises:
        PlanError: the plan's targets match nothing in the model.
    """
    names = [(module.name, module.layer) for module in base.linear_modules]
    return LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=plan.rank,
        lora_alpha=plan.alpha,  # type: ignore[arg-type]  # PEFT divides it by the rank as it is
        lora_dropout=plan.dropout,
        target_modules=list(adapted_modules(plan, names, base.depth)),
        use_rslora=plan.rslora,
        use_dora=plan.dora,
        bias="none",
    )


@contextmanager
def adapted(
    base: BaseModel, plan: TrainingPlan, classes: Mapping[str, int], seed: int
) -> Iterator[MultiTaskEncoder]:
    """Lend the base with a fresh adapter and heads; it is plain again afterwards.

    Args:
        classes: task name to number of classes.
        seed: fixes the initial weights.
    """
    torch.manual_seed(derive_seed(seed, "adapter") % MAX_TORCH_SEED)
    peft_model = get_peft_model(base.model, lora_config(plan.adapter, base))
    assert isinstance(peft_model, PeftModel)
    try:
        heads = nn.ModuleDict()
        for task, count in classes.items():
            torch.manual_seed(derive_seed(seed, "head", task) % MAX_TORCH_SEED)
            heads[task] = nn.Linear(base.hidden_size, count)
        device = next(base.model.parameters()).device
        yield MultiTaskEncoder(peft_model, heads.to(device), plan.encoding.pooling)
    finally:
        _unload(peft_model, base.model)


def _unload(peft_model: PeftModel, base: PreTrainedModel) -> None:
    plain: Any = peft_model.unload()
    assert plain is base, "PEFT must give the base model back"
    base.requires_grad_(False).eval()
    vars(base).pop("peft_config", None)  # PEFT leaves it behind and warns of it next time
