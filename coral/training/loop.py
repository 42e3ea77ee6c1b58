"""The training loop: one plan, one stage, one optimizer step after another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from coral.flops import StepCost
from coral.plan import SchedulePlan, warmup_steps
from coral.rng import derive_seed
from coral.training.batches import Indices
from coral.training.data import TrainSet
from coral.training.encoder import MAX_TORCH_SEED, MultiTaskEncoder
from coral.training.failures import DivergedError

CHECK_EVERY = 8
"""Steps between looks at the losses; each look waits for the device."""
REPORT_SECONDS = 0.5


@dataclass(slots=True)
class StageLog:
    """What one stage's loop did; a list entry a step.

    Attributes:
        first_step: optimizer steps that came before the stage.
    """

    first_step: int = 0
    loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    examples: int = 0
    tokens: int = 0
    teraflops: float = 0.0
    seconds: float = 0.0


def build_optimizer(encoder: MultiTaskEncoder, plan: SchedulePlan) -> torch.optim.AdamW:
    """Return AdamW with one group for the adapter and one for the heads."""
    groups = [
        {"params": encoder.adapter_parameters(), "lr": plan.learning_rate},
        {
            "params": list(encoder.heads.parameters()),
            "lr": plan.learning_rate * plan.head_lr_multiplier,
        },
    ]
    return torch.optim.AdamW(groups, weight_decay=plan.weight_decay, fused=True)


def learning_rate_factors(
    plan: SchedulePlan, optimizer: torch.optim.Optimizer, horizon_steps: int
) -> Callable[[int], float]:
    """Return the share of the peak learning rate at each step of the full horizon.

    Source: ``transformers.get_scheduler``.
    """
    scheduler = get_scheduler(
        plan.scheduler,
        optimizer,
        num_warmup_steps=warmup_steps(plan.warmup_ratio, horizon_steps),
        num_training_steps=horizon_steps,
    )
    factor: Callable[[int], float] = scheduler.lr_lambdas[0]
    return factor


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return bfloat16 autocast on a GPU, and nothing on a CPU."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def train_steps(
    encoder: MultiTaskEncoder,
    optimizer: torch.optim.Optimizer,
    factor: Callable[[int], float],
    train_set: TrainSet,
    batches: Sequence[Indices],
    *,
    plan: SchedulePlan,
    log: StageLog,
    seed: int,
    micro_batch_size: int | None,
    cost: StepCost,
    report: Callable[[int, float], None],
) -> None:
    """Train on ``batches`` in order.

    Args:
        log: is filled as training goes on, so that it stands also if training fails.
        micro_batch_size: batches are split into pieces of at most this many examples; the
            gradients are those of the whole batch.
        report: called with steps done and a loss, about twice a second.

    Raises:
        DivergedError: loss or gradient norm are not finite.
    """
    device = next(encoder.heads.parameters()).device
    peaks = [plan.learning_rate, plan.learning_rate * plan.head_lr_multiplier]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    started = reported = time.perf_counter()
    encoder.train_adapter(True)
    for done, rows in enumerate(batches, start=1):
        step = log.first_step + done - 1
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor(step)
        torch.manual_seed(derive_seed(seed, "dropout", step) % MAX_TORCH_SEED)
        losses.append(_accumulate(encoder, train_set, rows, micro_batch_size, device, cost, log))
        norms.append(nn.utils.clip_grad_norm_(parameters, plan.gradient_clip))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if done % CHECK_EVERY == 0 or done == len(batches):
            _collect(losses, norms, log)
            now = time.perf_counter()
            log.seconds = now - started
            if now - reported >= REPORT_SECONDS:
                report(log.first_step + done, log.loss[-1])
                reported = now
    encoder.train_adapter(False)


def _accumulate(
    encoder: MultiTaskEncoder,
    train_set: TrainSet,
    rows: Indices,
    micro_batch_size: int | None,
    device: torch.device,
    cost: StepCost,
    log: StageLog,
) -> Tensor:
    """Add the gradients of a batch's mean loss; return that loss."""
    size = micro_batch_size or len(rows)
    total = torch.zeros((), device=device)
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        labels = torch.from_numpy(train_set.labels[piece]).to(device)
        tasks = train_set.index.task[piece]
        with autocast(device):
            vectors = encoder.encode_texts(train_set.texts, piece)
        loss = total.new_zeros(())
        for number, name in enumerate(train_set.index.tasks):
            members = torch.from_numpy((tasks == number).nonzero()[0]).to(device)
            if len(members):
                logits = encoder.heads[name](vectors[members])
                loss = loss + nn.functional.cross_entropy(logits, labels[members], reduction="sum")
        loss = loss / len(rows)
        loss.backward()
        total += loss.detach()
        lengths = train_set.index.length[piece]
        log.tokens += int(lengths.sum())
        log.teraflops += cost.teraflops(len(piece), int(lengths.max()))
    log.examples += len(rows)
    return total


def _collect(losses: list[Tensor], norms: list[Tensor], log: StageLog) -> None:
    """Move pending values to the log, and stop if one is not finite."""
    new_losses, new_norms = torch.stack(losses).tolist(), torch.stack(norms).tolist()
    losses.clear()
    norms.clear()
    log.loss += new_losses
    log.gradient_norm += new_norms
    for loss, norm in zip(new_losses, new_norms, strict=True):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"loss {loss:.4g} and gradient norm {norm:.4g} must be finite; they were not"
                f" after {len(log.loss)} steps of the stage"
            )
