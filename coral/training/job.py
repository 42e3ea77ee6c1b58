"""One job's weights on the base: restored, inherited, put together or trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from coral.errors import CheckpointError
from coral.fidelity import ladder_steps
from coral.flops import BEGINNING, step_cost
from coral.plan import TrainingPlan, training_digest
from coral.ports import CheckpointStore, Inherited, Progress, Strategies, TrainingJob
from coral.records import Inheritance
from coral.rng import stream
from coral.training import checkpoint, transfer
from coral.training.base import BaseModel
from coral.training.checkpoint import Checkpoint, Position
from coral.training.course import Course, StageLog
from coral.training.data import BatchSource
from coral.training.encoder import MultiTaskEncoder, adapted
from coral.training.factors import Factors, rescaled
from coral.training.failures import LostWeightsError
from coral.training.loop import build_optimizer, learning_rate_factors, train_steps
from coral.training.prefix import Prefixes
from coral.training.targets import Target


@dataclass(slots=True)
class JobLog:
    """What a job did; it stands also if the job fails on the way.

    Attributes:
        stages: an entry for each stage that was trained, ancestors' included.
        notes: what went another way than usual, in words.
        inheritance: what was kept of inherited weights, once they are loaded.
    """

    stages: list[StageLog] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    inheritance: Inheritance | None = None


@dataclass(slots=True)
class Begun:
    """A model with the weights that a job starts from, on the base.

    Attributes:
        restored: they are those of the job's own checkpoint.
    """

    encoder: MultiTaskEncoder
    optimizer: torch.optim.AdamW
    course: Course
    restored: bool


@dataclass(slots=True)
class Trained:
    """A model with a job's weights, still on the base.

    Attributes:
        content: the checkpoint; None if it was there already.
        last: what the job's own last stage did; empty if nothing was trained.
    """

    encoder: MultiTaskEncoder
    position: Position
    content: bytes | None
    last: StageLog


class JobRunner:
    """Brings one frozen base to the weights of one job after another."""

    def __init__(
        self,
        base: BaseModel,
        targets: Mapping[str, Target],
        checkpoints: CheckpointStore,
        train_set: Callable[[TrainingPlan, int], BatchSource],
        report: Callable[[Progress], None],
        prefixes: Prefixes | None,
        strategies: Strategies,
    ) -> None:
        """Args:
        targets: task name to what its head predicts.
        train_set: gives the train set of a plan and a seed.
        prefixes: of the base, to share what lies below adapters; None to compute it each time.
        strategies: Coral's own, and those of plugins that plans may name.
        """
        self._base = base
        self._prefixes = prefixes
        self.targets = dict(targets)
        self._outputs = {name: target.outputs for name, target in targets.items()}
        self._checkpoints = checkpoints
        self._train_set = train_set
        self._report = report
        self._strategies = strategies
        self._layer_of = {module.name: module.layer for module in base.linear_modules}

    @contextmanager
    def begun(self, job: TrainingJob, log: JobLog) -> Iterator[Begun]:
        """Lend the base with the weights that a job starts from, restored as far as possible.

        Raises:
            LostWeightsError: inherited weights can't be read, and the job doesn't say how they
                were made.
        """
        train_set = self._train_set(job.plan, job.seed)
        log.notes += [
            f"{name}: {count} examples have their answers beyond sequence_len and are left out"
            for name, count in train_set.beyond.items()
        ]
        ends = [0, *ladder_steps(job.stages, len(train_set), job.plan.schedule.batch_size)]
        own = self._own(job, ends, log)
        # Lost parents are trained on this very base, so they come before the child's own adapter.
        sources = [] if own else [self._source(inherited, job, log) for inherited in job.inherits]
        made = _put_together(job, sources) if sources and job.derivation else None
        ranks = own.ranks if own else None
        if made is not None:
            ranks = {name: factors.rank for name, factors in made.modules.items()}
        with adapted(
            self._base,
            job.plan,
            self.targets,
            job.seed,
            ranks,
            self._prefixes,
            job.entrances,
            job.entered,
        ) as encoder:
            optimizer = build_optimizer(encoder, job.plan.schedule)
            if own is not None:
                checkpoint.restore(own, encoder, optimizer)
                position = own.position
            else:
                if sources and made is None:
                    made = self._inherited(job, sources, encoder.factors(), log)
                position = self._start(job, ends, made, sources)
                if made is not None:
                    encoder.load_factors(made.modules)
                    encoder.load_heads(made.heads)
                    checkpoint.load_moments(made.moments, encoder, optimizer)
                    log.inheritance = _account(made, job)
            course = Course(
                job=job,
                train_set=train_set,
                ends=ends,
                position=position,
                schedule=learning_rate_factors(job.plan.schedule, optimizer, ends[-1]),
                cost=step_cost(
                    job.plan.adapter,
                    self._base.linear_modules,
                    self._base.depth,
                    self._base.hidden_size,
                    BEGINNING if train_set.passing else encoder.entrance.start,
                ),
                logs=log.stages,
                report=self._report,
                strategies=self._strategies,
                loss_weights=train_set.loss_weights(job.plan, self._strategies),
            )
            yield Begun(encoder, optimizer, course, restored=own is not None)

    @contextmanager
    def trained(self, job: TrainingJob, log: JobLog) -> Iterator[Trained]:
        """Lend the base with a job's weights on it: restored as far as possible, else trained.

        Raises:
            LostWeightsError: see ``begun``.
        """
        with self.begun(job, log) as begun:
            encoder, optimizer, course = begun.encoder, begun.optimizer, begun.course
            last = None
            while (leg := course.next_leg()) is not None:
                train_steps(encoder, optimizer, course, leg)
                course.finish(leg)
                last = leg.log
            content = None
            if last is not None or not begun.restored:
                content = checkpoint.dump(encoder, optimizer, course.position)
            encoder.eval()
            yield Trained(encoder, course.position, content, last or StageLog())

    def _own(self, job: TrainingJob, ends: list[int], log: JobLog) -> Checkpoint | None:
        """Return the job's own checkpoint; None if it has none that can be used.

        Args:
            ends: cumulative optimizer steps before the first stage and by each stage's end.
        """
        if job.resume_from is None:
            return None
        try:
            found = self._read(job.resume_from)
            position = found.position
            if position.plan != training_digest(job.plan):
                raise CheckpointError("the checkpoint is of another plan")
            if position.stage > job.stage or position.step != ends[position.stage + 1]:
                raise CheckpointError("the checkpoint stands at no stage on the way")
        except CheckpointError as error:
            log.notes.append(f"made again, for {_first_line(error)}")
            return None
        return found

    def _source(self, inherited: Inherited, job: TrainingJob, log: JobLog) -> Checkpoint:
        """Return a parent's checkpoint; a lost one is made again as it was made first."""
        try:
            return self._read(inherited.address)
        except CheckpointError as error:
            lost = _first_line(error)
        maker = next((other for other in job.ancestors if other.key == inherited.key), None)
        if maker is None:
            raise LostWeightsError(f"the weights of trial {inherited.trial} are lost: {lost}")
        again = replace(
            maker, ancestors=job.ancestors, entrances=job.entrances, entered=job.entered
        )
        with self.trained(again, JobLog(log.stages, log.notes)) as parent:
            assert parent.content is not None
            content = parent.content
        log.notes.append(f"trial {inherited.trial} made again, for {lost}")
        self._checkpoints.put(content)
        return checkpoint.read(content, self._base.digest, self._outputs)

    def _read(self, address: str) -> Checkpoint:
        return checkpoint.read(self._checkpoints.get(address), self._base.digest, self._outputs)

    def _inherited(
        self,
        job: TrainingJob,
        sources: Sequence[Checkpoint],
        fresh: Mapping[str, Factors],
        log: JobLog,
    ) -> transfer.Inherited:
        """Return what the child has of one parent or two, the better one first."""
        parents = [checkpoint.parent_of(source) for source in sources]
        if len(parents) == 1:
            return transfer.inherit(fresh, parents[0])
        plan = job.plan.inheritance
        keys = [item.key for item in job.inherits]
        rng = stream(job.seed, "layers", training_digest(job.plan), *keys)
        crossed = transfer.cross(
            fresh,
            *parents,
            mixing=plan.mixing,
            mode=plan.crossover,
            layer_of=self._layer_of,
            take_other={n for n in range(self._base.depth) if rng.random() >= plan.mixing},
            min_retained_energy=job.min_retained_energy,
        )
        if crossed.parents == 1 and plan.crossover == "blend" and plan.mixing < 1:
            one, two = (inherited.trial for inherited in job.inherits)
            log.notes.append(
                f"inherits from trial {one} alone: too little of its blend with trial {two} fits"
                f" into rank {job.plan.adapter.rank}"
            )
        return crossed

    def _start(
        self,
        job: TrainingJob,
        ends: Sequence[int],
        made: transfer.Inherited | None,
        sources: Sequence[Checkpoint],
    ) -> Position:
        """Return the position before the first step; derived weights have none to do."""
        line = [source.position for source in sources[: made.parents if made else 0]]
        stage = job.stage if job.derivation else job.entry - 1
        return Position(
            plan=training_digest(job.plan),
            model=self._base.digest,
            heads=self._outputs,
            scaling=job.plan.adapter.scaling,
            stage=stage,
            step=ends[stage + 1],
            cumulative_steps=max((position.cumulative_steps for position in line), default=0),
            teraflops=max((position.teraflops for position in line), default=0.0),
            rewarms=made is not None and not _keeps_moments(made),
            seen=_seen(line, len(job.stages), len(self._outputs)),
        )


def _seen(line: Sequence[Position], stages: int, tasks: int) -> tuple[tuple[int, ...], ...]:
    """Return what inherited weights have drawn, by stage and task: the most of any parent."""
    nothing = ((0,) * tasks,) * stages
    known = [position.seen for position in line if len(position.seen) == stages]
    return tuple(
        tuple(max(counts) for counts in zip(*by_parent, strict=True))
        for by_parent in zip(nothing, *known, strict=True)
    )


def _put_together(job: TrainingJob, sources: Sequence[Checkpoint]) -> transfer.Inherited:
    """Return the weights of a soup or of a squeezed adapter, at the plan's scaling."""
    derivation = job.derivation
    assert derivation is not None
    parents = [checkpoint.parent_of(source) for source in sources]
    modules, heads = parents[0].modules, parents[0].heads
    if derivation.kind == "soup":
        total = sum(inherited.weight for inherited in job.inherits)
        weights = [inherited.weight / total for inherited in job.inherits]
        modules, heads = transfer.blend(list(zip(weights, parents, strict=True)))
    small, retained = transfer.squeezed(modules, rank=derivation.rank, energy=derivation.energy)
    scaling = job.plan.adapter.scaling
    return transfer.Inherited(
        modules={name: rescaled(factors, scaling) for name, factors in small.items()},
        heads=heads,
        moments={},
        retained=retained,
        retained_energy=transfer.retained_energy(modules, retained),
        moments_reset=True,
        parents=len(parents),
    )


def _keeps_moments(made: transfer.Inherited) -> bool:
    return not made.moments_reset and bool(made.moments)


def _account(made: transfer.Inherited, job: TrainingJob) -> Inheritance:
    return Inheritance(
        retained_energy=made.retained_energy,
        by_module={name: round(share, 6) for name, share in made.retained.items()},
        sources=tuple(inherited.trial for inherited in job.inherits[: made.parents]),
        moments_kept=_keeps_moments(made),
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
