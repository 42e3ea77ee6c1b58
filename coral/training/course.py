"""What a job trains: its stages, batch by batch, and where that leads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from coral.flops import StepCost
from coral.plan import rewarmup_share
from coral.ports import Progress, Strategies, TrainingJob
from coral.training.batches import Indices, examples_by_task, stage_batches
from coral.training.checkpoint import Position
from coral.training.data import TrainSet


@dataclass(slots=True)
class StageLog:
    """What one stage's training did; a list entry a step.

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

    def count(self, lengths: Indices, cost: StepCost) -> None:
        """Add one forward and backward pass over texts of these ``lengths``."""
        self.examples += len(lengths)
        self.tokens += int(lengths.sum())
        self.teraflops += cost.teraflops(len(lengths), int(lengths.max()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One stage of a job.

    Attributes:
        stage: index on the ladder.
        batches: ``(batch_size,)`` rows of the train set each, in the order of steps.
        log: is filled as training goes on, so that it stands also if training fails.
    """

    stage: int
    batches: Sequence[Indices]
    log: StageLog


@dataclass(slots=True, kw_only=True)
class Course:
    """A job's way through its stages; ``position`` moves as they end.

    Attributes:
        ends: cumulative optimizer steps before the first stage and by each stage's end.
        schedule: share of the peak learning rate at each step of the full horizon.
        cost: of its training steps.
        logs: gets an entry for each stage that begins.
        strategies: by which batches are drawn.
        loss_weights: ``(examples,)`` how much the loss of each counts; None for all alike.
    """

    job: TrainingJob
    train_set: TrainSet
    ends: Sequence[int]
    position: Position
    schedule: Callable[[int], float]
    cost: StepCost
    logs: list[StageLog]
    report: Callable[[Progress], None]
    strategies: Strategies
    loss_weights: NDArray[np.float32] | None = None

    def next_leg(self) -> Leg | None:
        """Begin the next stage; None if the job's own stage was reached."""
        stage = self.position.stage + 1
        if stage > self.job.stage:
            return None
        job, index = self.job, self.train_set.index
        seen = self.position.seen[stage]
        batches = stage_batches(job.plan, index, job.stages, stage, job.seed, seen, self.strategies)
        self.logs.append(StageLog(first_step=self.ends[stage]))
        return Leg(stage=stage, batches=batches, log=self.logs[-1])

    def finish(self, leg: Leg) -> None:
        """Stand at the end of a stage that was trained."""
        before = self.position.seen
        drawn = examples_by_task(self.train_set.index, leg.batches)
        seen = tuple(one + two for one, two in zip(before[leg.stage], drawn, strict=True))
        self.position = replace(
            self.position,
            stage=leg.stage,
            step=self.ends[leg.stage + 1],
            cumulative_steps=self.position.cumulative_steps + len(leg.batches),
            teraflops=self.position.teraflops + leg.log.teraflops,
            seen=(*before[: leg.stage], seen, *before[leg.stage + 1 :]),
        )

    def factor(self, step: int) -> float:
        """Return the share of the peak learning rate at a step, for an heir as it warms up."""
        plan = self.job.plan.inheritance
        share = self.schedule(step)
        if self.job.inherits:
            share *= plan.learning_rate_multiplier
        if self.position.rewarms:
            share *= rewarmup_share(plan, step - self.ends[self.job.entry], self.ends[-1])
        return share

    def tell(self, step: int, loss: float) -> None:
        """Report how far the job is."""
        end = self.ends[self.job.stage + 1]
        self.report(Progress.of(self.job, step=step, end_step=end, loss=loss))
