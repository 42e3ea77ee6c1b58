"""Genomes that train side by side: each is what it is when it trains alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from coral.plan import LOSS_WEIGHTINGS, SAMPLERS, digest_of
from coral.ports import Inherited, Strategies, TrainingJob
from coral.records import Derivation, Outcome
from coral.training import loop, stacked
from coral.training import pack as pack_module
from coral.training.base import BaseModel, load_base
from coral.training.checkpoint import Checkpoint, moments_of, read
from coral.training.job import JobLog
from coral.training.pack import Member, Pack
from coral.training.prefix import Prefixes
from coral.training.stacked import corner
from coral.training.trainer import LoraTrainer
from tests.training.conftest import LAST, MemoryCheckpoints, make_job
from tests.training.models import animals, colours, load, save_model

HEADS = {"colour": 3, "animal": 2}
FAMILIES = ("bert", "distilbert", "modernbert", "llama", "qwen3", "gpt2")
MIXED: tuple[dict[str, Any], ...] = (
    {"adapter.rank": 2},
    {"adapter.rank": 7, "adapter.target_modules": "all-linear", "schedule.weight_decay": 0.3},
    {"adapter.layers": "top-1", "schedule.batch_size": 4, "schedule.gradient_clip": 0.1},
    {"adapter.dropout": 0.3, "schedule.scheduler": "cosine", "schedule.head_lr_multiplier": 4.0},
)
WILD: dict[str, Any] = {"schedule.learning_rate": 1e30, "schedule.warmup_ratio": 0.0}


WEIGHTS = Strategies(
    samplers={
        **SAMPLERS,
        "long": lambda plan, rows: rows.lengths,
        "broken": lambda plan, rows: -rows.lengths,
    },
    loss_weightings={**LOSS_WEIGHTINGS, "long": lambda plan, rows: rows.lengths**2.0},
)
"""Weights that differ from row to row, where classes are as large as each other; and bad ones."""


class Bench:
    """Trainers on one base whose checkpoints can be read."""

    def __init__(self, base: BaseModel, prefixes: Path | None = None) -> None:
        self.base = base
        self.store = MemoryCheckpoints()
        self._prefixes = prefixes

    def trainer(self, slots: int) -> LoraTrainer:
        shared = Prefixes(self.base, self._prefixes) if self._prefixes else None
        tasks = load(colours(), animals())
        return LoraTrainer(
            self.base,
            tasks,
            self.store,
            lambda progress: None,
            shared,
            slots,
            strategies=WEIGHTS,
        )

    def train(self, jobs: Sequence[TrainingJob], slots: int) -> dict[str, Outcome]:
        return {outcome.key: outcome for outcome in self.trainer(slots).train(jobs)}

    def checkpoint(self, outcome: Outcome) -> Checkpoint:
        assert outcome.failure is None, outcome.failure.traceback
        return read(self.store.get(outcome.checkpoint or ""), self.base.digest, HEADS)


@pytest.fixture
def bench(base: BaseModel) -> Bench:
    return Bench(base)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many trained at a time, pack by pack."""
    sizes: list[int] = []
    train = Pack.train

    def listen(pack: Pack) -> None:
        sizes.append(len(pack._members))
        train(pack)

    monkeypatch.setattr(Pack, "train", listen)
    return sizes


def jobs_of(*values: dict[str, Any], **fields: Any) -> list[TrainingJob]:
    return [make_job(own, trial=i, **fields) for i, own in enumerate(values)]


def assert_equal(bench: Bench, one: Outcome, two: Outcome) -> None:
    """Weights, moments, losses, metrics and costs; times aside."""
    first, second = bench.checkpoint(one), bench.checkpoint(two)
    assert first.position == second.position
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        torch.testing.assert_close(second.tensors[name], tensor, rtol=1e-5, atol=1e-5, msg=name)
    assert two.curve.step == one.curve.step
    assert two.curve.loss == pytest.approx(one.curve.loss, abs=1e-4)
    assert two.metrics == pytest.approx(one.metrics, abs=1e-4, nan_ok=True)
    for name in ("optimizer_steps", "examples", "tokens", "teraflops"):
        assert getattr(two.cost, name) == pytest.approx(getattr(one.cost, name)), name
    assert two.trainable_parameters == one.trainable_parameters
    assert two.cumulative_steps == one.cumulative_steps


def assert_as_alone(bench: Bench, jobs: Sequence[TrainingJob], slots: int = 8) -> None:
    alone, packed = bench.train(jobs, 1), bench.train(jobs, slots)
    assert alone.keys() == packed.keys() == {job.key for job in jobs}
    for key, outcome in alone.items():
        assert_equal(bench, outcome, packed[key])


plans = st.fixed_dictionaries(
    {
        "adapter.rank": st.integers(1, 9),
        "adapter.target_modules": st.sampled_from(["all-linear", ("query",), ("value", "dense")]),
        "adapter.layers": st.sampled_from(["all", "top-1", "bottom-2"]),
        "adapter.dropout": st.sampled_from([0.0, 0.2]),
        "adapter.rslora": st.booleans(),
        "schedule.learning_rate": st.sampled_from([1e-3, 5e-3]),
        "schedule.head_lr_multiplier": st.sampled_from([1.0, 5.0]),
        "schedule.scheduler": st.sampled_from(["linear", "cosine", "constant"]),
        "schedule.weight_decay": st.sampled_from([0.0, 0.2]),
        "schedule.gradient_clip": st.sampled_from([0.05, 1.0]),
        "schedule.batch_size": st.sampled_from([4, 8, 12]),
        "encoding.sequence_len": st.sampled_from([8, 16]),
        "curriculum.kind": st.sampled_from(["none", "progressive"]),
        "sampling.kind": st.sampled_from(["uniform", "long"]),
        "loss.weighting": st.sampled_from(["none", "long"]),
        "tasks.weights": st.sampled_from([{}, {"colour": 0.1, "animal": 0.9}]),
    }
)


@given(values=st.lists(plans, min_size=2, max_size=4, unique_by=str))
@settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.generate))
def test_whoever_shares_its_pack_a_genome_is_what_it_is_alone(
    base: BaseModel, values: list[dict[str, Any]]
) -> None:
    """Adam divides a gradient by its own size: where it is zero but for rounding, the step is made
    of rounding. With an epsilon above that, any two ways to compute the same can be compared.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "EPSILON", 1e-5)
        patch.setattr(stacked, "EPSILON", 1e-5)
        assert_as_alone(Bench(base), jobs_of(*values, stage=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_so_it_is_on_every_architecture(family: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = save_model(tmp_path / "model", family)
    base = load_base(str(folder), device="cpu", trust_remote_code=False)
    values = {"adapter.target_modules": "all-linear", "adapter.dropout": 0.1}
    jobs = jobs_of(values, {**values, "adapter.rank": 3, "adapter.layers": "top-2"}, stage=1)
    assert_as_alone(Bench(base), jobs)


def test_weights_of_the_loss_are_the_members_own(bench: Bench) -> None:
    weighted = {"loss.weighting": "long"}
    jobs = jobs_of({}, weighted, {**weighted, "schedule.batch_size": 4}, stage=0)
    assert_as_alone(bench, jobs)
    plain, heavy, _ = bench.train(jobs, 3).values()
    assert plain.curve.loss != pytest.approx(heavy.curve.loss, rel=1e-3)


def test_with_shared_prefixes_too(base: BaseModel, tmp_path: Path, together: list[int]) -> None:
    deep, shallow = {"adapter.layers": "top-1"}, {"adapter.layers": "top-2"}
    jobs = jobs_of(deep, {**deep, "adapter.rank": 2}, shallow)
    bench = Bench(base, tmp_path)
    assert_as_alone(bench, jobs)
    assert set(together) <= {1, 2, 3}
    assert 3 in together


def test_genomes_with_their_own_ladders_come_and_go(bench: Bench, together: list[int]) -> None:
    """Batches of 4 take twice the steps of batches of 8, so packs change on the way."""
    assert_as_alone(bench, jobs_of(*MIXED), slots=3)
    assert max(together) == 3
    assert len(together) > 1


def test_a_survivor_goes_on_from_its_own_checkpoint(bench: Bench) -> None:
    early = bench.train(jobs_of(*MIXED, stage=0), 4)
    jobs = [
        replace(job, resume_from=early[job.key].checkpoint) for job in jobs_of(*MIXED, stage=LAST)
    ]
    assert_as_alone(bench, jobs)


def test_children_start_from_their_parents(bench: Bench) -> None:
    [parent] = bench.train(jobs_of({}), 1).values()
    inherited = Inherited(
        trial=9, stage=LAST, key="parent", address=parent.checkpoint or "", weight=1.0
    )
    values: tuple[dict[str, Any], ...] = (
        {},
        {"adapter.rank": 2},
        {"adapter.target_modules": ("query", "value", "dense")},
    )
    jobs = [replace(job, inherits=(inherited,), entry=1) for job in jobs_of(*values)]
    assert_as_alone(bench, jobs)
    packed = bench.train(jobs, 3)
    grown = moments_of(bench.checkpoint(packed[jobs[2].key]))
    assert len({float(moments.step) for moments in grown.values()}) == 2


def test_what_fills_up_a_smaller_rank_stays_exactly_zero(bench: Bench) -> None:
    runner = bench.trainer(2)._runner
    members = []
    for job in jobs_of(*MIXED[:3]):
        log = JobLog()
        with runner.begun(job, log) as begun:
            members.append(Member.of(begun, log))
    trained = Pack(bench.base, members, runner.targets)
    trained.train()
    filled = 0
    for part in trained._stacked.parts:
        for k, member in enumerate(members):
            own = part.of(trained._stacked.values)[k].clone()
            if part.name in member.weights.tensors:
                shape = member.weights.tensors[part.name].shape
                assert corner(own, shape).any()
                corner(own, shape).zero_()
            assert not own.any(), part.name
            filled += own.numel()
    assert filled


class TestTrouble:
    def test_a_diverged_genome_touches_no_other_and_makes_room(
        self, bench: Bench, together: list[int]
    ) -> None:
        jobs = jobs_of({}, WILD, {"adapter.rank": 2}, {"adapter.rank": 3})
        alone, packed = bench.train(jobs, 1), bench.train(jobs, 2)
        one, two = (outcomes.pop(jobs[1].key) for outcomes in (alone, packed))
        assert one.failure is not None
        assert one.failure.kind == "diverged"
        assert two.failure == one.failure
        assert two.cost.optimizer_steps == one.cost.optimizer_steps
        for key, outcome in alone.items():
            assert_equal(bench, outcome, packed[key])
        assert together.count(2) >= 3

    def test_where_a_pack_needs_too_much_memory_smaller_ones_begin_anew(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train, sizes = Pack.train, []

        def with_little_memory(pack: Pack) -> None:
            sizes.append(len(pack._members))
            if len(pack._members) > 2:
                raise torch.OutOfMemoryError("out of memory")
            train(pack)

        jobs = jobs_of(*MIXED)
        alone = bench.train(jobs, 1)
        monkeypatch.setattr(Pack, "train", with_little_memory)
        packed = bench.train(jobs, 4)
        assert sizes[:2] == [4, 2]
        for key, outcome in alone.items():
            assert_equal(bench, outcome, packed[key])

    def test_where_packs_fail_otherwise_each_trains_alone(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        jobs = jobs_of(*MIXED[:2])
        alone = bench.train(jobs, 1)

        def fail(*_: Any) -> None:
            raise RuntimeError("a layer that takes rows apart")

        monkeypatch.setattr(pack_module.StackedAdapters, "_adapt", fail)
        packed = bench.train(jobs, 2)
        for key, outcome in alone.items():
            assert_equal(bench, outcome, packed[key])

    @pytest.mark.parametrize("slots", [1, 2])
    def test_a_strategy_that_breaks_its_rules_fails_the_genomes_that_name_it(
        self, bench: Bench, slots: int
    ) -> None:
        good, broken, unknown = jobs_of({}, {"sampling.kind": "broken"}, {"loss.weighting": "odd"})
        outcomes = bench.train([good, broken, unknown], slots)
        assert outcomes[good.key].failure is None
        for job, told in ((broken, "weights must be finite, >= 0"), (unknown, "must be one of")):
            failure = outcomes[job.key].failure
            assert failure is not None
            assert failure.kind == "plugin"
            assert told in failure.message

    def test_a_job_that_can_not_begin_is_a_failure_of_its_own(self, bench: Bench) -> None:
        lost = Inherited(trial=9, stage=LAST, key="lost", address="nowhere", weight=1.0)
        good, bad = jobs_of({}, {"adapter.rank": 2})
        packed = bench.train([good, replace(bad, inherits=(lost,))], 2)
        assert packed[good.key].failure is None
        failure = packed[bad.key].failure
        assert failure is not None
        assert failure.kind == "lost"


@pytest.mark.parametrize(
    "change",
    [
        lambda job: replace(job, plan=make_job({"adapter.dora": True}).plan),
        lambda job: replace(job, micro_batch_size=2),
        lambda job: replace(job, derivation=Derivation(kind="soup")),
    ],
    ids=["dora", "batches in pieces", "nothing to train"],
)
def test_what_does_not_fit_into_a_pack_trains_alone(
    change: Callable[[TrainingJob], TrainingJob],
) -> None:
    [job] = jobs_of({})
    assert pack_module.packable(job)
    assert not pack_module.packable(change(job))


def test_jobs_that_pool_differently_are_packed_apart(bench: Bench, together: list[int]) -> None:
    values = ({"encoding.pooling": "cls"}, {"encoding.pooling": "cls", "adapter.rank": 2}, {})
    assert_as_alone(bench, jobs_of(*values))
    assert together == [2, 1]
    assert len({digest_of(job.plan) for job in jobs_of(*values)}) == 3
