"""What a job starts from: nothing, its parents' weights, or those of others put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from coral.fidelity import ladder_steps
from coral.ports import Inherited, TrainingJob
from coral.records import Derivation, Outcome
from coral.training import checkpoint
from coral.training.evaluation import predict
from coral.training.job import JobLog, JobRunner
from coral.training.loop import train_steps
from coral.training.trainer import LoraTrainer
from tests.training.conftest import LADDER, LAST, BuildTrainer, MemoryCheckpoints, make_job

EXAMPLES = 48


def run(trainer: LoraTrainer, job: TrainingJob) -> Outcome:
    (outcome,) = trainer.train([job])
    assert outcome.failure is None, outcome.failure
    return outcome


def inherited(outcome: Outcome, trial: int = 0, weight: float = 1.0) -> Inherited:
    assert outcome.checkpoint is not None
    return Inherited(
        trial=trial,
        stage=outcome.stage,
        key=outcome.key,
        address=outcome.checkpoint,
        weight=weight,
    )


def probabilities(trainer: LoraTrainer, job: TrainingJob) -> np.ndarray:
    """What a job's weights say of the validation texts."""
    with trainer._runner.trained(job, JobLog()) as trained:
        return predict(trained.encoder, trainer._sets.split("validation", 16))["colour"]


@pytest.fixture
def trainer(build_trainer: BuildTrainer) -> LoraTrainer:
    return build_trainer()


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs keep the weights that they start from."""
    monkeypatch.setattr("coral.training.job.train_steps", lambda *_, **__: None)


@pytest.fixture
def parent(trainer: LoraTrainer) -> TrainingJob:
    job = make_job()
    return replace(job, resume_from=run(trainer, job).checkpoint)


def child_of(trainer: LoraTrainer, parent: TrainingJob, **values: Any) -> TrainingJob:
    weights = inherited(run(trainer, parent))
    named = {name.replace("__", "."): value for name, value in values.items()}
    return replace(make_job(named, trial=1, entry=LAST), key="child", inherits=(weights,))


class TestAChild:
    @pytest.mark.parametrize(
        "values",
        [
            {},
            {"adapter__rank": 7},
            {"adapter__scaling": 0.25},
            {"adapter__rslora": True, "adapter__rank": 9},
            {"adapter__target_modules": ("query", "value", "dense")},
            {"adapter__dora": True, "adapter__rank": 6},
        ],
        ids=["same", "more rank", "other scaling", "rslora", "more targets", "dora"],
    )
    def test_begins_as_the_function_that_its_parent_is(
        self,
        trainer: LoraTrainer,
        parent: TrainingJob,
        request: pytest.FixtureRequest,
        values: dict[str, Any],
    ) -> None:
        child = child_of(trainer, parent, **values)
        expected = probabilities(trainer, parent)
        request.getfixturevalue("untrained")
        assert probabilities(trainer, child) == pytest.approx(expected, abs=1e-5)

    def test_of_a_dora_parent_begins_as_the_function_that_it_is(
        self, trainer: LoraTrainer, request: pytest.FixtureRequest
    ) -> None:
        job = make_job({"adapter.dora": True})
        parent = replace(job, resume_from=run(trainer, job).checkpoint)
        child = child_of(trainer, parent, adapter__dora=True, adapter__rank=6)
        expected = probabilities(trainer, parent)
        request.getfixturevalue("untrained")
        assert probabilities(trainer, child) == pytest.approx(expected, abs=1e-5)

    def test_of_less_rank_keeps_the_best_approximation_and_says_how_much(
        self, trainer: LoraTrainer, parent: TrainingJob
    ) -> None:
        outcome = run(trainer, child_of(trainer, parent, adapter__rank=1))
        assert outcome.inheritance is not None
        assert 0 < outcome.inheritance.retained_energy < 1
        assert len(outcome.inheritance.by_module) == 6
        assert not outcome.inheritance.moments_kept

    def test_of_fewer_targets_counts_what_it_dropped(
        self, trainer: LoraTrainer, parent: TrainingJob
    ) -> None:
        outcome = run(trainer, child_of(trainer, parent, adapter__target_modules=("query",)))
        assert outcome.inheritance is not None
        shares = outcome.inheritance.by_module
        assert {name.rpartition(".")[2]: share for name, share in shares.items()} == {
            "query": 1.0,
            "value": 0.0,
        }
        assert outcome.inheritance.retained_energy < 1

    def test_trains_its_entry_stage_alone(self, trainer: LoraTrainer, parent: TrainingJob) -> None:
        child = child_of(trainer, parent)
        ends = ladder_steps(LADDER, EXAMPLES, child.plan.schedule.batch_size)
        outcome = run(trainer, child)
        assert outcome.cost.optimizer_steps == ends[LAST] - ends[LAST - 1]
        assert outcome.cumulative_steps == ends[LAST] + outcome.cost.optimizer_steps
        assert outcome.curve.step[0] == ends[LAST - 1] + 1

    def test_costs_what_its_parent_cost_and_what_it_trained_itself(
        self, trainer: LoraTrainer, parent: TrainingJob
    ) -> None:
        before = run(trainer, parent).metrics["train_cost"]
        outcome = run(trainer, child_of(trainer, parent))
        assert outcome.metrics["train_cost"] == pytest.approx(before + outcome.cost.teraflops)

    def test_the_childs_learning_rate_weight_decay_and_schedule_hold_not_the_parents(
        self, trainer: LoraTrainer, parent: TrainingJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Loading an optimizer's state dict would silently bring back the parent's."""
        child = child_of(
            trainer,
            parent,
            schedule__learning_rate=3e-4,
            schedule__weight_decay=0.25,
            schedule__scheduler="linear",
            schedule__head_lr_multiplier=2.0,
            inheritance__learning_rate_multiplier=0.8,
        )
        seen: list[list[tuple[float, float]]] = []

        def listen(*args: Any, **fields: Any) -> None:
            optimizer = args[1]
            take = optimizer.step

            def step(*inner: Any, **more: Any) -> Any:
                groups = [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
                seen.append(groups)
                return take(*inner, **more)

            monkeypatch.setattr(optimizer, "step", step)
            train_steps(*args, **fields)

        monkeypatch.setattr("coral.training.job.train_steps", listen)
        run(trainer, child)
        ends = ladder_steps(LADDER, EXAMPLES, child.plan.schedule.batch_size)
        warmup = round(child.plan.schedule.warmup_ratio * ends[-1])
        for step, groups in zip(range(ends[-2], ends[-1]), seen, strict=True):
            share = 0.8 * (ends[-1] - step) / (ends[-1] - warmup)
            assert groups == [
                (pytest.approx(3e-4 * share), 0.25),
                (pytest.approx(6e-4 * share), 0.25),
            ]

    def test_that_keeps_its_factors_keeps_their_moments(
        self, trainer: LoraTrainer, parent: TrainingJob, checkpoints: MemoryCheckpoints
    ) -> None:
        outcome = run(trainer, child_of(trainer, parent))
        assert outcome.inheritance is not None
        assert outcome.inheritance.moments_kept
        steps = outcome.cumulative_steps
        found = checkpoint.read(
            checkpoints.get(outcome.checkpoint or ""), trainer._base.digest, {"colour": 3}
        )
        assert {float(m.step) for m in checkpoint.moments_of(found).values()} == {float(steps)}

    def test_that_lost_its_moments_warms_up_again(
        self, trainer: LoraTrainer, parent: TrainingJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        factors: dict[str, list[float]] = {}

        def listen(name: str) -> Callable[..., None]:
            def record(*args: Any, **fields: Any) -> None:
                course, leg = args[2:]
                factors[name] = [course.factor(leg.log.first_step + i) for i in range(3)]

            return record

        values = {
            "schedule__scheduler": "constant",
            "inheritance__rewarmup_ratio": 0.5,
            "inheritance__learning_rate_multiplier": 1.0,
        }
        kept, lost = (child_of(trainer, parent, adapter__rank=r, **values) for r in (4, 2))
        for name, job in (("kept", kept), ("lost", lost)):
            monkeypatch.setattr("coral.training.job.train_steps", listen(name))
            run(trainer, job)
        assert factors["kept"] == [1.0, 1.0, 1.0]
        assert factors["lost"][0] < factors["lost"][1] < factors["lost"][2] < 1.0


class TestTwoParents:
    @pytest.fixture
    def family(self, trainer: LoraTrainer) -> list[Outcome]:
        jobs = [make_job(), make_job({"adapter.rank": 3, "schedule.learning_rate": 1e-2})]
        return [run(trainer, job) for job in jobs]

    def child(self, family: list[Outcome], **values: Any) -> TrainingJob:
        named = {name.replace("__", "."): value for name, value in values.items()}
        weights = tuple(inherited(outcome, trial) for trial, outcome in enumerate(family))
        return replace(make_job(named, trial=2, entry=LAST), key="child", inherits=weights)

    def test_a_blend_holds_both(self, trainer: LoraTrainer, family: list[Outcome]) -> None:
        outcome = run(trainer, self.child(family, adapter__rank=7))
        assert outcome.inheritance is not None
        assert outcome.inheritance.sources == (0, 1)
        assert outcome.inheritance.retained_energy == pytest.approx(1, abs=1e-5)
        assert not outcome.inheritance.moments_kept

    def test_a_blend_that_does_not_fit_leaves_the_better_parent_alone(
        self, trainer: LoraTrainer, family: list[Outcome]
    ) -> None:
        job = replace(self.child(family, adapter__rank=1), min_retained_energy=0.999)
        outcome = run(trainer, job)
        assert outcome.inheritance is not None
        assert outcome.inheritance.sources == (0,)
        assert "alone" in outcome.notes[0]

    def test_layers_come_whole_from_one_of_them(
        self, trainer: LoraTrainer, family: list[Outcome], untrained: None
    ) -> None:
        job = self.child(family, inheritance__crossover="layers", adapter__rank=6)
        with trainer._runner.trained(job, JobLog()) as trained:
            own = {n: f.scaling * f.b @ f.a for n, f in trained.encoder.factors().items()}
        updates = [whole_updates(trainer, outcome) for outcome in family]
        origin: dict[str, set[int]] = {}
        for name, update in own.items():
            near = [i for i in (0, 1) if torch.allclose(update, updates[i][name], atol=1e-6)]
            origin.setdefault(name.split("layer.")[1][0], set()).update(near)
        assert all(len(parents) == 1 for parents in origin.values())
        assert set().union(*origin.values()) == {0, 1}


def whole_updates(trainer: LoraTrainer, outcome: Outcome) -> dict[str, torch.Tensor]:
    found = trainer._runner._read(outcome.checkpoint or "")
    modules = checkpoint.parent_of(found).modules
    return {name: f.scaling * f.b @ f.a for name, f in modules.items()}


class TestDerived:
    def made(self, job: TrainingJob, how: Derivation, *sources: Inherited) -> TrainingJob:
        return replace(
            job,
            trial=9,
            key="derived",
            resume_from=None,
            entry=LAST,
            derivation=how,
            inherits=sources,
        )

    def test_a_soup_of_one_is_its_member(self, trainer: LoraTrainer, parent: TrainingJob) -> None:
        soup = Derivation(kind="soup", rank=4)
        job = self.made(parent, soup, inherited(run(trainer, parent)))
        assert probabilities(trainer, job) == pytest.approx(
            probabilities(trainer, parent), abs=1e-5
        )

    def test_a_soup_is_the_mean_of_its_members_updates_and_heads(
        self, trainer: LoraTrainer
    ) -> None:
        jobs = [make_job(), make_job({"adapter.rank": 3, "adapter.layers": "top-2"})]
        outcomes = [run(trainer, job) for job in jobs]
        weights = (0.75, 0.25)
        sources = [inherited(o, weight=w) for o, w in zip(outcomes, weights, strict=True)]
        job = self.made(jobs[0], Derivation(kind="soup", rank=7), *sources)
        with trainer._runner.trained(job, JobLog()) as trained:
            own = {n: f.scaling * f.b @ f.a for n, f in trained.encoder.factors().items()}
            head = trained.encoder.state()["head.colour.weight"].clone()
        parts = [whole_updates(trainer, outcome) for outcome in outcomes]
        for name, update in own.items():
            expected = sum(
                w * part[name] for w, part in zip(weights, parts, strict=True) if name in part
            )
            assert torch.allclose(update, torch.as_tensor(expected), atol=1e-5), name
        heads = [
            trainer._runner._read(o.checkpoint or "").state["head.colour.weight"] for o in outcomes
        ]
        assert torch.allclose(head, 0.75 * heads[0] + 0.25 * heads[1], atol=1e-6)

    def test_nothing_is_trained(self, trainer: LoraTrainer, parent: TrainingJob) -> None:
        before = run(trainer, parent)
        how = Derivation(kind="squeeze", rank=2)
        outcome = run(trainer, self.made(make_job({"adapter.rank": 2}), how, inherited(before)))
        assert outcome.cost.optimizer_steps == 0
        assert outcome.cumulative_steps == before.cumulative_steps
        assert outcome.trainable_parameters * 2 == before.trainable_parameters
        assert outcome.inheritance is not None
        assert 0 < outcome.inheritance.retained_energy <= 1

    def test_an_energy_gives_each_module_its_own_rank(
        self, trainer: LoraTrainer, parent: TrainingJob
    ) -> None:
        how = Derivation(kind="squeeze", energy=0.7)
        outcome = run(trainer, self.made(parent, how, inherited(run(trainer, parent))))
        assert outcome.inheritance is not None
        assert outcome.inheritance.retained_energy >= 0.7
        ranks = trainer._runner._read(outcome.checkpoint or "").ranks
        assert len(set(ranks.values())) > 1

    def test_what_was_derived_is_scored_again_from_its_own_checkpoint(
        self, trainer: LoraTrainer, parent: TrainingJob
    ) -> None:
        how = Derivation(kind="squeeze", energy=0.7)
        job = self.made(parent, how, inherited(run(trainer, parent)))
        expected = probabilities(trainer, job)
        again = replace(job, resume_from=run(trainer, job).checkpoint, inherits=())
        assert np.array_equal(probabilities(trainer, again), expected)


class TestLostWeights:
    @pytest.fixture
    def lineage(self, trainer: LoraTrainer) -> tuple[TrainingJob, TrainingJob, TrainingJob]:
        """Grandparent, parent and child."""
        first = replace(make_job(), key="first")
        second = replace(child_of(trainer, first, adapter__rank=6), key="second")
        third = replace(
            make_job({"adapter.rank": 5}, trial=2, entry=LAST),
            key="third",
            inherits=(inherited(run(trainer, second), trial=1),),
        )
        return first, second, third

    @contextmanager
    def cleared(self, checkpoints: MemoryCheckpoints) -> Iterator[None]:
        kept = dict(checkpoints.contents)
        checkpoints.contents.clear()
        yield
        checkpoints.contents.update(kept)

    def test_a_child_whose_parents_are_lost_fails_as_lost(
        self,
        trainer: LoraTrainer,
        checkpoints: MemoryCheckpoints,
        lineage: tuple[TrainingJob, TrainingJob, TrainingJob],
    ) -> None:
        checkpoints.contents.clear()
        (outcome,) = trainer.train([lineage[2]])
        assert outcome.failure is not None
        assert outcome.failure.kind == "lost"
        assert "trial 1" in outcome.failure.message

    def test_the_same_weights_are_made_again_from_the_ancestors(
        self,
        trainer: LoraTrainer,
        checkpoints: MemoryCheckpoints,
        lineage: tuple[TrainingJob, TrainingJob, TrainingJob],
    ) -> None:
        expected = run(trainer, lineage[2])
        checkpoints.contents.clear()
        outcome = run(trainer, replace(lineage[2], ancestors=lineage[:2]))
        assert outcome.metrics == expected.metrics
        assert outcome.checkpoint == expected.checkpoint
        assert outcome.cost.optimizer_steps > expected.cost.optimizer_steps
        assert [note.split(",")[0] for note in outcome.notes] == [
            "trial 0 made again",
            "trial 1 made again",
        ]

    def test_what_was_made_again_is_kept(
        self,
        trainer: LoraTrainer,
        checkpoints: MemoryCheckpoints,
        lineage: tuple[TrainingJob, TrainingJob, TrainingJob],
    ) -> None:
        checkpoints.contents.clear()
        run(trainer, replace(lineage[2], ancestors=lineage[:2]))
        assert not run(trainer, lineage[2]).notes

    def test_a_damaged_parent_is_a_lost_one_never_a_wrong_one(
        self,
        trainer: LoraTrainer,
        checkpoints: MemoryCheckpoints,
        lineage: tuple[TrainingJob, TrainingJob, TrainingJob],
    ) -> None:
        (weights,) = lineage[2].inherits
        checkpoints.contents[weights.address] = checkpoints.contents[weights.address][:-50]
        (outcome,) = trainer.train([lineage[2]])
        assert outcome.failure is not None
        assert outcome.failure.kind == "lost"


def test_a_runner_needs_no_more_than_one_adapter_on_the_base(trainer: LoraTrainer) -> None:
    """A lost parent is trained before the child's adapter is put on, not under it."""
    assert isinstance(trainer._runner, JobRunner)
    first = replace(make_job(), key="first")
    child = replace(child_of(trainer, first), ancestors=(first,))
    (weights,) = child.inherits
    trainer._checkpoints.discard([weights.address])
    run(trainer, child)
    names = [name for name, _ in trainer._base.model.named_modules()]
    assert not any("lora" in name for name in names)
