"""The training loop: one plan, one stage, one optimizer step after another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from transformers import get_scheduler

from coral.plan import SchedulePlan, warmup_steps
from coral.rng import derive_seed
from coral.training.batches import Indices
from coral.training.course import Course, Leg, StageLog
from coral.training.data import Batch, TrainSet
from coral.training.encoder import MAX_TORCH_SEED, MultiTaskEncoder
from coral.training.failures import DivergedError
from coral.training.texts import as_tokenized, on_device

BETAS = (0.9, 0.999)
EPSILON = 1e-8
"""Of AdamW, torch's defaults."""
CHECK_EVERY = 8
"""Steps between looks at the losses; each look waits for the device."""
REPORT_SECONDS = 0.5


def build_optimizer(encoder: MultiTaskEncoder, plan: SchedulePlan) -> torch.optim.AdamW:
    """Return AdamW with one group for the adapter and one for the heads."""
    adapter, heads = peak_learning_rates(plan)
    groups = [
        {"params": encoder.adapter_parameters(), "lr": adapter},
        {"params": list(encoder.heads.parameters()), "lr": heads},
    ]
    decay = plan.weight_decay
    return torch.optim.AdamW(groups, betas=BETAS, eps=EPSILON, weight_decay=decay, fused=True)


def learning_rate_factors(
    plan: SchedulePlan, optimizer: torch.optim.Optimizer, horizon_steps: int
) -> Callable[[int], float]:
    """Return the share of the peak learning rate at each step of the full horizon.

    Source: ``transformers.get_scheduler``.
    """
    scheduler = get_scheduler(
        plan.scheduler,
        optimizer,
        num_warmup_steps=warmup_steps(plan, horizon_steps),
        num_training_steps=horizon_steps,
    )
    factor: Callable[[int], float] = scheduler.lr_lambdas[0]
    return factor


def train_steps(
    encoder: MultiTaskEncoder, optimizer: torch.optim.Optimizer, course: Course, leg: Leg
) -> None:
    """Train on the batches of one stage in order.

    Raises:
        DivergedError: loss or gradient norm are not finite.
    """
    job, log = course.job, leg.log
    plan = job.plan.schedule
    device = encoder.base.device
    # ``torch.manual_seed`` would seed all devices, and write down its callers for those not in use.
    generator = default_generator(device)
    peaks = peak_learning_rates(plan)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    started = reported = time.perf_counter()
    encoder.train_adapter(True)
    for done, batch in enumerate(leg.batches, start=1):
        step = log.first_step + done - 1
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * course.factor(step)
        generator.manual_seed(dropout_seed(job.seed, step))
        losses.append(_accumulate(encoder, course, batch, device, log))
        norms.append(nn.utils.clip_grad_norm_(parameters, plan.gradient_clip))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if done % CHECK_EVERY == 0 or done == len(leg.batches):
            _collect(losses, norms, log)
            now = time.perf_counter()
            log.seconds = now - started
            if now - reported >= REPORT_SECONDS:
                course.tell(log.first_step + done, log.loss[-1])
                reported = now
    encoder.train_adapter(False)


def default_generator(device: torch.device) -> torch.Generator:
    """Return the generator that torch draws from on a device that is in use."""
    if device.type != "cuda":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    found: torch.Generator = torch.cuda.default_generators[index]
    return found


def dropout_seed(seed: int, step: int) -> int:
    """Return the seed of one step's dropout, for torch's generators."""
    return derive_seed(seed, "dropout", step) % MAX_TORCH_SEED


def peak_learning_rates(plan: SchedulePlan) -> tuple[float, float]:
    """Return the peak learning rate of the adapter, and that of the heads."""
    return plan.learning_rate, plan.learning_rate * plan.head_lr_multiplier


def _accumulate(
    encoder: MultiTaskEncoder, course: Course, batch: Batch, device: torch.device, log: StageLog
) -> Tensor:
    """Add the gradients of a batch's loss; return that loss.

    A task with a head has its examples' mean loss, a task whose answers are written that of its
    trained tokens; tasks count by their shares of the examples. A batch is split into pieces of at
    most the job's ``micro_batch_size`` examples; the gradients are those of the whole batch.
    """
    train_set, rows = batch.examples, batch.rows
    size = course.job.micro_batch_size or len(rows)
    shares = train_set.token_shares(rows)
    total = torch.zeros((), device=device)
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        weights = None
        if course.loss_weights is not None:
            weights = on_device(torch.from_numpy(course.loss_weights[piece]), device)
        loss = _head_losses(encoder, train_set, piece, weights, device) / len(rows)
        for number, name in enumerate(train_set.index.tasks):
            (members,) = (train_set.index.task[piece] == number).nonzero()
            if name in shares and len(members):
                with encoder.forward_scope():
                    written = encoder.language_loss(
                        as_tokenized(train_set.texts),
                        piece[members],
                        train_set.capacity[name],
                        _of(weights, members, device),
                    )
                loss = loss + written * shares[name]
        loss.backward()
        total += loss.detach()
        log.count(train_set.index.length[piece], course.cost)
    return total


def _head_losses(
    encoder: MultiTaskEncoder,
    train_set: TrainSet,
    rows: Indices,
    weights: Tensor | None,
    device: torch.device,
) -> Tensor:
    """Return the summed loss of those examples whose tasks have heads.

    Args:
        weights: ``(rows,)``, of each example's loss; None for 1.
    """
    tasks = train_set.index.tasks
    headed = [number for number, name in enumerate(tasks) if name not in train_set.capacity]
    (places,) = np.isin(train_set.index.task[rows], headed).nonzero()
    rows, weights = rows[places], _of(weights, places, device)
    loss = torch.zeros((), device=device)
    if not len(rows):
        return loss
    with encoder.forward_scope():
        vectors = encoder.encode_texts(train_set.texts, rows)
    for number in headed:
        (members,) = (train_set.index.task[rows] == number).nonzero()
        if len(members):
            name = tasks[number]
            logits = encoder.heads[name](vectors[on_device(torch.from_numpy(members), device)])
            labels = on_device(train_set.labels_of(number, rows[members]), device)
            losses = encoder.targets[name].losses(logits, labels)
            own = _of(weights, members, device)
            loss = loss + (losses if own is None else losses * own).sum()
    return loss


def _of(weights: Tensor | None, rows: Indices, device: torch.device) -> Tensor | None:
    return None if weights is None else weights[on_device(torch.from_numpy(rows), device)]


def _collect(losses: list[Tensor], norms: list[Tensor], log: StageLog) -> None:
    """Move pending values to the log, and stop if one is not finite."""
    new = len(losses)
    log.loss += torch.stack(losses).tolist()
    log.gradient_norm += torch.stack(norms).tolist()
    losses.clear()
    norms.clear()
    require_finite(log, new)


def require_finite(log: StageLog, steps: int) -> None:
    """Check loss and gradient norm of the last ``steps``.

    Raises:
        DivergedError: one is not finite.
    """
    for loss, norm in zip(log.loss[-steps:], log.gradient_norm[-steps:], strict=True):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"loss {loss:.4g} and gradient norm {norm:.4g} must be finite; they were not"
                f" after {len(log.loss)} steps of the stage"
            )
