"""Genomes that train and are evaluated side by side, in one pass over their rows together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from coral.ports import TrainingJob
from coral.training.base import BaseModel
from coral.training.batches import Indices
from coral.training.checkpoint import dump_tensors, moments_in
from coral.training.course import Course, Leg
from coral.training.data import Batch
from coral.training.encoder import pool
from coral.training.entering import Known, entering
from coral.training.evaluation import Predictions
from coral.training.evaluation_sets import EvaluationSet
from coral.training.failures import DivergedError
from coral.training.job import Begun, JobLog
from coral.training.loop import (
    CHECK_EVERY,
    REPORT_SECONDS,
    dropout_seed,
    peak_learning_rates,
    require_finite,
)
from coral.training.prefix import Entrance
from coral.training.stacked import Rows, StackedAdamW, StackedAdapters, Weights
from coral.training.targets import Target
from coral.training.texts import (
    Padded,
    TokenizedTexts,
    as_tokenized,
    batched_by_length,
    on_device,
    tokens_at_once,
)

Input = tuple[TokenizedTexts, Indices]
"""Texts, and which of them."""


def packable(job: TrainingJob) -> bool:
    """Return whether a job can train beside others.

    Magnitudes of DoRA change what the base computes, soups and squeezed adapters train nothing, and
    a batch in pieces is one that did not fit even alone.
    """
    batch_size = job.plan.schedule.batch_size
    whole = job.micro_batch_size is None or job.micro_batch_size >= batch_size
    return whole and job.derivation is None and not job.plan.adapter.dora


@dataclass(slots=True, kw_only=True)
class Member:
    """A job in a pack.

    Attributes:
        weights: when they were last taken from the pack.
        leg: the stage that it is in; None at its end.
        batch: of the next step.
        coming: the batches after that.
        done: steps of that stage.
        unchecked: steps since losses were looked at.
        failure: why it is out, if it is.
    """

    log: JobLog
    course: Course
    weights: Weights
    entrance: Entrance
    restored: bool
    leg: Leg | None = None
    last: Leg | None = None
    batch: Batch | None = None
    coming: Iterator[Batch] = field(default_factory=lambda: iter(()))
    done: int = 0
    unchecked: int = 0
    failure: DivergedError | None = None
    reported: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, begun: Begun, log: JobLog) -> Member:
        """Return a member with a copy of the weights that a job begins with."""
        encoder, course = begun.encoder, begun.course
        moments = moments_in(encoder, begun.optimizer)
        weights = Weights(
            tensors={n: p.detach().clone() for n, p in encoder.parameters_by_name().items()},
            moments=moments,
            scaling=encoder.scaling,
            dropout=course.job.plan.adapter.dropout,
        )
        member = cls(
            log=log,
            course=course,
            weights=weights,
            entrance=encoder.entrance,
            restored=begun.restored,
        )
        member.enter(course.next_leg())
        return member

    @property
    def job(self) -> TrainingJob:
        return self.course.job

    @property
    def ended(self) -> bool:
        return self.leg is None or self.failure is not None

    @property
    def parameters(self) -> int:
        """Trainable parameters of the adapter."""
        tensors = self.weights.tensors.items()
        return sum(t.numel() for name, t in tensors if not name.startswith("head."))

    def content(self) -> bytes | None:
        """Return the checkpoint; None if it was there already."""
        if self.restored and self.last is None:
            return None
        return dump_tensors(self.weights.tensors, self.weights.moments, self.course.position)

    def enter(self, leg: Leg | None) -> None:
        """Stand before the first step of a stage, or at the end of all."""
        self.leg, self.done = leg, 0
        self.coming = iter(leg.batches) if leg else iter(())
        self.batch = next(self.coming, None)

    def advance(self) -> None:
        """Count a step that was taken."""
        assert self.leg is not None and self.batch is not None
        self.leg.log.count(self.batch.lengths, self.course.cost)
        self.batch = next(self.coming, None)
        self.done += 1
        self.unchecked += 1

    def check(self) -> None:
        """Look at the losses since the last time, and leave the pack if one is not finite."""
        assert self.leg is not None
        try:
            require_finite(self.leg.log, self.unchecked)
        except DivergedError as error:
            self.failure = error
        self.unchecked = 0
        now = time.perf_counter()
        if now - self.reported >= REPORT_SECONDS:
            self.course.tell(self.leg.log.first_step + self.done, self.leg.log.loss[-1])
            self.reported = now

    def move_on(self) -> None:
        """Begin the next stage if this one is over."""
        if self.leg is None or self.done < len(self.leg.batches) or self.failure is not None:
            return
        self.course.finish(self.leg)
        self.last = self.leg
        self.enter(self.course.next_leg())


class Pack:
    """Members on one base, stacked."""

    def __init__(
        self, base: BaseModel, members: Sequence[Member], targets: Mapping[str, Target]
    ) -> None:
        """Args:
        targets: task name to what its heads predict.
        """
        self._base = base
        self._targets = targets
        self._members = members
        self._stacked = StackedAdapters(base, [member.weights for member in members])
        entrances = [member.entrance for member in members]
        self._entrance = min(entrances, key=lambda e: (e.start.layer, e.prefixes is not None))
        self._pooling = members[0].job.plan.encoding.pooling
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []

    def train(self) -> None:
        """Train until a member is at its end, or can't go on."""
        schedules = [member.job.plan.schedule for member in self._members]
        optimizer = StackedAdamW(
            self._stacked,
            [member.weights for member in self._members],
            weight_decay=[schedule.weight_decay for schedule in schedules],
            gradient_clip=[schedule.gradient_clip for schedule in schedules],
        )
        looked = time.perf_counter()
        while not any(member.ended for member in self._members):
            self._step(optimizer)
            due = [m for m in self._members if m.leg and _is_due(m.done, m.leg)]
            if due:
                self._collect()
                looked = self._share_time(looked)
            for member in due:
                member.check()
                member.move_on()
        for k, member in enumerate(self._members):
            member.weights = replace(
                member.weights, tensors=self._stacked.state(k), moments=optimizer.moments(k)
            )

    def predict(self, examples: EvaluationSet) -> list[dict[str, Predictions]]:
        """Return each member's predictions, as ``evaluation.predict`` does for one."""
        count = len(self._members)
        texts, device = as_tokenized(examples.texts), self._base.device
        batches = batched_by_length(texts.lengths, tokens_at_once(device))
        order = torch.from_numpy(np.argsort(np.concatenate(batches))).to(device)
        found: list[Tensor] = []
        with torch.inference_mode():
            for chosen in batches:
                longest = int(texts.lengths[chosen].max())
                rows = Rows.of([len(chosen)] * count, [longest] * count, device)
                found.append(
                    self._encode([(texts, chosen)] * count, rows).unflatten(0, (count, -1))
                )
            vectors = torch.cat(found, dim=1)[:, order]
            predictions: list[dict[str, Predictions]] = [{} for _ in self._members]
            for task, chosen in examples.rows.items():
                own = vectors[:, torch.from_numpy(chosen).to(device)].flatten(0, 1)
                rows = Rows.of([len(chosen)] * count, [1] * count, device)
                logits = self._stacked.logits(task, own, rows).unflatten(0, (count, -1))
                for k, values in enumerate(self._targets[task].predictions(logits)):
                    predictions[k][task] = values
        return predictions

    def _step(self, optimizer: StackedAdamW) -> None:
        """Take one optimizer step with every member."""
        members, device = self._members, self._base.device
        inputs, generators, rates, resting = [], [], [], []
        for member in members:
            assert member.leg is not None and member.batch is not None
            train_set, chosen = member.batch.examples, member.batch.rows
            step = member.leg.log.first_step + member.done
            inputs.append((as_tokenized(train_set.texts), chosen))
            generators.append(_generator(member, step, device))
            factor = member.course.factor(step)
            peaks = peak_learning_rates(member.job.plan.schedule)
            rates.append((peaks[0] * factor, peaks[1] * factor))
            present = {train_set.index.tasks[i] for i in np.unique(train_set.index.task[chosen])}
            resting.append(set(train_set.index.tasks) - present)
        rows = Rows.of(
            [len(chosen) for _, chosen in inputs],
            [int(texts.lengths[chosen].max()) for texts, chosen in inputs],
            device,
            generators,
        )
        losses = self._losses_of(self._encode(inputs, rows), rows)
        self._losses.append(losses.detach())
        self._norms.append(optimizer.step(losses, rates, resting))
        for member in members:
            member.advance()

    def _losses_of(self, vectors: Tensor, rows: Rows) -> Tensor:
        """Return each member's mean loss over its batch, ``(members,)``."""
        device = vectors.device
        first = self._members[0].batch
        assert first is not None
        tasks = first.examples.index.tasks
        places: list[list[Indices]] = [[] for _ in tasks]
        labels: list[list[Tensor]] = [[] for _ in tasks]
        weights = np.ones(sum(rows.counts), dtype=np.float32)
        start = 0
        for member, count in zip(self._members, rows.counts, strict=True):
            assert member.batch is not None
            train_set, chosen = member.batch.examples, member.batch.rows
            own = train_set.index.task[chosen]
            for number in np.unique(own):
                (members,) = (own == number).nonzero()
                places[number].append(start + members)
                labels[number].append(train_set.labels_of(number, chosen[members]))
            if member.course.loss_weights is not None:
                weights[start : start + count] = member.course.loss_weights[chosen]
            start += count
        by_row = vectors.new_zeros(len(vectors))
        for task, where, encoded in zip(tasks, places, labels, strict=True):
            if where:
                at = on_device(torch.from_numpy(np.concatenate(where)), device)
                logits = self._stacked.logits(task, vectors, rows)[at]
                losses = self._targets[task].losses(logits, on_device(torch.cat(encoded), device))
                by_row = by_row.index_add(0, at, losses)
        if any(member.course.loss_weights is not None for member in self._members):
            by_row = by_row * on_device(torch.from_numpy(weights), device)
        parts = by_row.split(list(rows.counts))
        return torch.stack([part.sum() / len(part) for part in parts])

    def _encode(self, inputs: Sequence[Input], rows: Rows) -> Tensor:
        """Return one float32 vector a row, ``(rows, hidden)``.

        Members often have the same batch: texts are padded, and what is known of them is read,
        once.
        """
        device = self._base.device
        different, place = _different(inputs)
        padded = [texts.pad(chosen) for texts, chosen in different]
        texts = inputs[0][0]
        together = Padded(
            _filled_up([part.ids for part in padded], rows.longest, texts.pad_id),
            _filled_up([part.mask for part in padded], rows.longest),
            None
            if texts.segments is None
            else _filled_up([p.segments for p in padded if p.segments is not None], rows.longest),
        )
        picked = on_device(torch.from_numpy(place), device)
        given = together.on(device).each(lambda tensor: tensor.index_select(0, picked))
        entrance: AbstractContextManager[None] = nullcontext()
        found = [self._entrance.known(texts, chosen) for texts, chosen in different]
        known = [own.parts for own in found if own is not None]
        if len(known) == len(found):
            parts = (_filled_up(part, rows.longest) for part in zip(*known, strict=True))
            there = Known.of([on_device(part, device).index_select(0, picked) for part in parts])
            entrance = entering(self._base, self._entrance.start, there)
        with self._base.autocast(), self._stacked.applied_to(rows), entrance:
            hidden = self._base.model(**given.inputs()).last_hidden_state
        return pool(hidden.float(), given.mask, self._pooling)

    def _collect(self) -> None:
        """Move pending losses and norms to the members' logs."""
        losses = torch.stack(self._losses, dim=1).tolist()
        norms = torch.stack(self._norms, dim=1).tolist()
        self._losses.clear()
        self._norms.clear()
        for member, own_losses, own_norms in zip(self._members, losses, norms, strict=True):
            assert member.leg is not None
            member.leg.log.loss += own_losses
            member.leg.log.gradient_norm += own_norms

    def _share_time(self, since: float) -> float:
        """Give every member its share of the time since then; return the time now."""
        now = time.perf_counter()
        sizes = [member.job.plan.schedule.batch_size for member in self._members]
        for member, size in zip(self._members, sizes, strict=True):
            assert member.leg is not None
            member.leg.log.seconds += (now - since) * size / sum(sizes)
        return now


def _is_due(done: int, leg: Leg) -> bool:
    """Return whether losses are looked at after so many steps of a stage."""
    return done % CHECK_EVERY == 0 or done == len(leg.batches)


def _generator(member: Member, step: int, device: torch.device) -> torch.Generator | None:
    """Return a generator that draws one step's dropout as if the member were alone."""
    if not member.weights.dropout:
        return None
    return torch.Generator(device).manual_seed(dropout_seed(member.job.seed, step))


def _different(inputs: Sequence[Input]) -> tuple[list[Input], Indices]:
    """Return inputs without repetition, and where among their rows each given row is."""
    keys = [(texts.digest, chosen.tobytes()) for texts, chosen in inputs]
    different = dict(zip(keys, inputs, strict=True))
    places, start = {}, 0
    for key, (_, chosen) in different.items():
        places[key] = np.arange(start, start + len(chosen))
        start += len(chosen)
    return list(different.values()), np.concatenate([places[key] for key in keys])


def _filled_up(parts: Sequence[Tensor], longest: int, fill: int = 0) -> Tensor:
    """Return parts of ``(rows, length, ...)`` one after another, all ``longest`` long."""
    shape = (sum(map(len, parts)), longest, *parts[0].shape[2:])
    together = parts[0].new_full(shape, fill)
    start = 0
    for part in parts:
        together[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return together
