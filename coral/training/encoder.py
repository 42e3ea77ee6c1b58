"""The trained model: a shared frozen base, one adapter on it, and one linear head a task.

A task whose answers are written has no head of its own: the language model's is its head, and
frozen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from coral.errors import CheckpointError
from coral.flops import lowest_layer
from coral.plan import AdapterPlan, TrainingPlan, adapted_modules
from coral.rng import derive_seed
from coral.training.base import BaseModel
from coral.training.batches import Indices
from coral.training.dropout import SeededDropout
from coral.training.factors import Factors
from coral.training.failures import DivergedError
from coral.training.prefix import WHOLE, Entrance, Prefixes
from coral.training.recompute import recomputing
from coral.training.targets import Target
from coral.training.texts import ModelInputs, Padded, TokenizedTexts, on_device
from coral.training.thin import lay_flat
from coral.training.token_rows import TokenBatch, summed_loss, token_batch

MAX_TORCH_SEED = 2**63 - 1
_NAME = "default"
"""PEFT's name of the one adapter."""


class MultiTaskEncoder(nn.Module):
    """Adapter and heads over a base.

    Attributes:
        adapter: the PEFT model, or whatever holds its layers.
        heads: task name to linear head, of tasks that have one.
        targets: task name to what it predicts.
        entrance: where the base may be entered with what is known of its texts.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: PeftModel | PreTrainedModel,
        heads: nn.ModuleDict,
        targets: Mapping[str, Target],
        pooling: str,
        entrance: Entrance = WHOLE,
    ) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter
        self.heads = heads
        self.targets = dict(targets)
        self.pooling = pooling
        self.entrance = entrance

    @contextmanager
    def forward_scope(self) -> Iterator[None]:
        """Run forward passes in the base's precision, and keep as much of them as it says."""
        recomputes = self.base.recomputes and torch.is_grad_enabled()
        kept = (
            recomputing(self.base.stack, self.entrance.start.layer) if recomputes else nullcontext()
        )
        with self.base.autocast(), kept:
            yield

    def encode_texts(self, texts: ModelInputs, rows: Indices) -> Tensor:
        """Return one float32 vector a text, ``(rows, hidden)``."""
        device = self.base.device
        if isinstance(texts, TokenizedTexts):
            with self.entrance.used_for(texts, rows):
                return self.encode(*texts.pad(rows).on(device))
        inputs = {name: on_device(values, device) for name, values in texts.inputs(rows).items()}
        return self._encoded(inputs)

    def token_states(
        self, texts: TokenizedTexts, rows: Indices, capacity: int | None = None
    ) -> tuple[TokenBatch, Tensor]:
        """Return texts in rows, and their tokens' states, ``(rows, width, hidden)``.

        Args:
            capacity: tokens that share a row; None for one text a row.
        """
        batch = token_batch(texts, rows, self.base.device, capacity)
        with self.entrance.used_for(texts, rows, batch.arranged):
            found: Tensor = self.adapter(
                input_ids=batch.ids, position_ids=batch.positions, use_cache=False
            ).last_hidden_state
        return batch, found

    def language_loss(
        self,
        texts: TokenizedTexts,
        rows: Indices,
        capacity: int | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the summed negative log-likelihood of texts' trained tokens.

        Args:
            weights: ``(rows,)``, of every token of a text; None for 1.
        """
        assert self.base.language is not None
        batch, hidden = self.token_states(texts, rows, capacity)
        by_token = None if weights is None else weights[batch.owners]
        return summed_loss(self.base.language, batch.states(hidden), batch.targets, by_token)

    def encode(self, ids: Tensor, mask: Tensor, segments: Tensor | None = None) -> Tensor:
        """Return one float32 vector a text, ``(batch, hidden)``."""
        return self._encoded(Padded(ids, mask, segments).inputs())

    def _encoded(self, inputs: Mapping[str, Tensor]) -> Tensor:
        hidden = self.adapter(**inputs).last_hidden_state
        return pool(hidden.float(), inputs["attention_mask"], self.pooling)

    def adapter_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.adapter.parameters() if p.requires_grad]

    def layers(self) -> dict[str, Any]:
        """Return the adapted modules, ``LoraLayer`` s, by their names in the base model."""
        base: Any = self.adapter.base_model.model
        named = base.named_modules()
        return {name: module for name, module in named if isinstance(module, LoraLayer)}

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """Return all that is trained: ``<module>.a``, ``.b``, ``.magnitude``, ``head.<task>.…``."""
        named: dict[str, nn.Parameter] = {}
        for name, layer in self.layers().items():
            named[f"{name}.a"] = layer.lora_A[_NAME].weight
            named[f"{name}.b"] = layer.lora_B[_NAME].weight
            if _NAME in layer.lora_magnitude_vector:
                named[f"{name}.magnitude"] = layer.lora_magnitude_vector[_NAME].weight
        return {**named, **{f"head.{name}": p for name, p in self.heads.named_parameters()}}

    def state(self) -> dict[str, Tensor]:
        """Return the values of ``parameters_by_name``, on the CPU."""
        return {name: p.detach().cpu() for name, p in self.parameters_by_name().items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what ``state`` returned.

        Raises:
            CheckpointError: a tensor is missing, left over or of another shape.
        """
        own = self.parameters_by_name()
        require_coverage(own, tensors)
        for name, parameter in own.items():
            if parameter.shape != tensors[name].shape:
                raise CheckpointError(
                    f"the checkpoint does not fit the model: {name} is"
                    f" {tuple(tensors[name].shape)}, must be {tuple(parameter.shape)}"
                )
            parameter.data.copy_(tensors[name])

    def factors(self) -> dict[str, Factors]:
        """Return the adapter's updates by module, sharing its memory."""
        return factors_of(
            {n: p.detach() for n, p in self.parameters_by_name().items()}, self.scaling
        )

    @property
    def scaling(self) -> float:
        """Effective scaling of every update."""
        return float(next(iter(self.layers().values())).scaling[_NAME])

    def load_factors(self, modules: Mapping[str, Factors]) -> None:
        """Load updates of the adapter's own ranks and scaling.

        A DoRA magnitude that they lack becomes the norms of the adapted weights, so that the update
        holds whole; PEFT sets it to those of the base alone, for its own updates start at zero.

        Raises:
            CheckpointError: a module is missing, left over or of another shape.
        """
        own = self.parameters_by_name()
        given: dict[str, Tensor] = {n: p for n, p in own.items() if n.startswith("head.")}
        for name, factors in modules.items():
            given |= {f"{name}.a": factors.a, f"{name}.b": factors.b}
            if (magnitude := own.get(f"{name}.magnitude")) is not None:
                given[f"{name}.magnitude"] = (
                    magnitude if factors.magnitude is None else factors.magnitude
                )
        self.load_state(given)
        for name, layer in self.layers().items():
            if modules[name].magnitude is None and f"{name}.magnitude" in own:
                weight = layer.get_base_layer().weight + layer.get_delta_weight(_NAME)
                by_output = weight.T if layer.fan_in_fan_out else weight
                own[f"{name}.magnitude"].data.copy_(by_output.norm(dim=1))

    def load_heads(self, heads: Mapping[str, Tensor]) -> None:
        """Load heads under their names in ``state``. Raises as ``load_state`` does."""
        adapter = {n: p for n, p in self.parameters_by_name().items() if not n.startswith("head.")}
        self.load_state({**adapter, **heads})

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Fold the adapter into the base for the length of the scope: evaluation gets cheaper.

        The base's own tensors are put back afterwards, so it stays exact to the bit. A base in less
        than float32 would lose what the update adds, and is left as it is; so are maps whose
        products are known.

        Raises:
            DivergedError: the update is not finite.
        """
        if not self.base.merges:
            yield
            return
        kept = set(self.entrance.keeps())
        adapted = (m for m in self.adapter.modules() if isinstance(m, LoraLayer))
        layers = [layer for layer in adapted if layer.get_base_layer() not in kept]
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


def require_coverage(expected: Iterable[str], given: Iterable[str]) -> None:
    """Check that tensors cover a model, no less and no more. PEFT alone would stay silent.

    Raises:
        CheckpointError: one is missing or left over.
    """
    missing, surplus = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or surplus:
        raise CheckpointError(
            f"the checkpoint does not cover the model: missing {missing[:3]},"
            f" left over {surplus[:3]}"
        )


def factors_of(tensors: Mapping[str, Tensor], scaling: float) -> dict[str, Factors]:
    """Return the updates by module that a state of ``MultiTaskEncoder`` holds."""
    return {
        (module := name.removesuffix(".a")): Factors(
            a=tensor,
            b=tensors[f"{module}.b"],
            scaling=scaling,
            magnitude=tensors.get(f"{module}.magnitude"),
        )
        for name, tensor in tensors.items()
        if name.endswith(".a") and not name.startswith("head.")
    }


def lora_config(
    plan: AdapterPlan, base: BaseModel, ranks: Mapping[str, int] | None = None
) -> LoraConfig:
    """Return PEFT's configuration of a plan's adapter.

    Args:
        ranks: module to rank, where the adapter has others than the plan's; it is then exactly
            these modules that are adapted.

    Raises:
        PlanError: the plan's targets match nothing in the model.
    """
    names = [(module.name, module.layer) for module in base.linear_modules]
    own = {name: replace(plan, rank=rank).alpha for name, rank in (ranks or {}).items()}
    return LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=plan.rank,
        lora_alpha=plan.alpha,  # type: ignore[arg-type]  # PEFT divides it by the rank as it is
        lora_dropout=plan.dropout,
        target_modules=list(ranks or adapted_modules(plan, names, base.depth)),
        rank_pattern={name: rank for name, rank in (ranks or {}).items() if rank != plan.rank},
        alpha_pattern={name: alpha for name, alpha in own.items() if alpha != plan.alpha},
        use_rslora=plan.rslora,
        use_dora=plan.dora,
        bias="none",
    )


@contextmanager
def adapted(
    base: BaseModel,
    plan: TrainingPlan,
    targets: Mapping[str, Target],
    seed: int,
    ranks: Mapping[str, int] | None = None,
    prefixes: Prefixes | None = None,
    entrances: Collection[int] | None = None,
    entered: Collection[int] = (),
) -> Iterator[MultiTaskEncoder]:
    """Lend the base with a fresh adapter and heads; it is plain again afterwards.

    Args:
        targets: task name to what its head predicts.
        seed: fixes the initial weights.
        ranks: see ``lora_config``.
        prefixes: of the base, to share what lies below the adapter; None to compute it each time.
        entrances: layers before which that may be; None for any.
        entered: layers that others enter, see ``Prefixes.entrance``.
    """
    config = lora_config(plan.adapter, base, ranks)
    lowest = lowest_layer(set(config.target_modules or ()), base.linear_modules)
    entrance = prefixes.entrance(lowest, entrances, entered) if prefixes else WHOLE
    torch.manual_seed(derive_seed(seed, "adapter") % MAX_TORCH_SEED)
    peft_model = get_peft_model(base.model, config)
    assert isinstance(peft_model, PeftModel)
    try:
        heads = nn.ModuleDict()
        for task, target in targets.items():
            if target.problem == "causal_lm":
                continue
            torch.manual_seed(derive_seed(seed, "head", task) % MAX_TORCH_SEED)
            heads[task] = nn.Linear(base.hidden_size, target.outputs)
        pooling = plan.encoding.pooling
        encoder = MultiTaskEncoder(
            base, peft_model, heads.to(base.device), targets, pooling, entrance
        )
        if plan.adapter.dropout:
            for layer in encoder.layers().values():
                layer.lora_dropout[_NAME] = SeededDropout(plan.adapter.dropout)
        lay_flat(encoder.layers().values(), _NAME)
        yield encoder
    finally:
        _unload(peft_model, base.model)


def _unload(peft_model: PeftModel, base: PreTrainedModel) -> None:
    plain: Any = peft_model.unload()
    assert plain is base, "PEFT must give the base model back"
    base.requires_grad_(False).eval()
    vars(base).pop("peft_config", None)  # PEFT leaves it behind and warns of it next time
