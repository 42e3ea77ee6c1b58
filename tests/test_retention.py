"""Whole evolutions under a byte budget, on a trainer that plays a script and on a real one."""

from __future__ import annotations

import hashlib
import io
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from coral.cli.comparison import ComparisonScreen
from coral.cli.screen import Screen
from coral.errors import CheckpointError
from coral.evolution import EvolutionState, Use, claims
from coral.execution import InlineExecutor
from coral.fidelity import PruneSettings, Stage
from coral.genome import FloatGene, IntGene, SearchSpace
from coral.loop import evolve
from coral.plan import TrainingPlan, with_values
from coral.ports import Ports, Survey, TrainingJob
from coral.records import Outcome, StageFinished, TestScore
from coral.retention import RememberedSizes
from coral.settings import (
    ConfirmSettings,
    EvolutionSettings,
    ExploitSettings,
    RunSpec,
    SoupSettings,
    SqueezeSettings,
    TaskSettings,
    WarmStartSettings,
)
from coral.storage import FsspecCheckpointStore
from tests.scripted_runs import (
    SPEC,
    DyingRunStore,
    KilledError,
    MemoryRunStore,
    WatchedExecutor,
    Watcher,
    ports_of,
)

if TYPE_CHECKING:
    from coral.training.trainer import LoraTrainer

LARGEST = 12 * 6 * 32 * 2 * 64
"""Bytes of the scripted trainer's largest checkpoint: six modules at rank 32."""
LONG = replace(
    SPEC,
    evolution=replace(SPEC.evolution, population_size=10, generations=20),
    warm_start=WarmStartSettings(cold_share=0.2),
    exploit=ExploitSettings(quantile=0.25),
    soup=SoupSettings(candidates=4, tunings=2),
    squeeze=SqueezeSettings(ranks=(4,), energies=(0.9,), sources=1),
    confirm=ConfirmSettings(top_k=2, seeds=2),
)


@dataclass
class Shelf:
    """A ``CheckpointStore`` that jobs fill as the real trainer does.

    Attributes:
        sizes: bytes of what is there.
        most: bytes when it was fullest.
        made_again: what jobs had to train a second time.
        asked: addresses whose size was looked up.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    most: int = 0
    made_again: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    _told: dict[str, int] = field(default_factory=dict)

    def put(self, content: bytes) -> str:
        raise NotImplementedError

    def get(self, address: str) -> bytes:
        raise CheckpointError(address)

    def holds(self, address: str) -> bool:
        return bool(self.size(address))

    def size(self, address: str) -> int | None:
        self.asked.append(address)
        return self.sizes.get(address)

    def discard(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            self.sizes.pop(address, None)

    def fill(self, job: TrainingJob, outcome: Outcome) -> Outcome:
        """Put what a job made, and what it had to make again for it."""
        assert job.resume_from is None or job.resume_from in self.sizes
        makers = {maker.key: maker for maker in job.ancestors}
        open_ends = list(job.inherits)
        while open_ends:
            item = open_ends.pop()
            if item.address in self.sizes:
                continue
            assert item.key in makers, f"trial {item.trial}, which a queued job needs, is gone"
            self.made_again.append(item.address)
            self._take(item.address, self._told[item.address])
            open_ends += makers[item.key].inherits
        if job.derivation is not None:  # it has no moments
            outcome = replace(outcome, checkpoint_bytes=outcome.checkpoint_bytes // 3)
        if outcome.checkpoint:
            self._take(outcome.checkpoint, outcome.checkpoint_bytes)
        return outcome

    def _take(self, address: str, size: int) -> None:
        self._told[address] = self.sizes[address] = size
        self.most = max(self.most, sum(self.sizes.values()))


def shelved(shelf: Shelf) -> Ports:
    ports = ports_of(WatchedExecutor(edit=shelf.fill))
    return replace(ports, checkpoints=RememberedSizes(shelf), workers=1)


def noticed(ports: Ports) -> list[tuple[str, str]]:
    assert isinstance(ports.observer, Watcher)
    return ports.observer.noticed


@pytest.fixture(scope="module")
def unlimited() -> tuple[EvolutionState, Shelf]:
    """A run of 200 trials and more, without a budget."""
    shelf = Shelf()
    return evolve(LONG, shelved(shelf)), shelf


class TestUnderABudget:
    @pytest.mark.parametrize("checkpoints", [24, 32, 48])
    def test_the_cache_never_takes_more_and_the_run_ends_the_same(
        self, checkpoints: int, unlimited: tuple[EvolutionState, Shelf]
    ) -> None:
        expected, free = unlimited
        budget, shelf = checkpoints * LARGEST, Shelf()
        ports = shelved(shelf)
        state = evolve(replace(LONG, cache_bytes=budget), ports)
        assert len(state.trials) > 200
        assert state == expected
        assert shelf.most <= budget < free.most / 2
        assert noticed(ports) == []

    def test_room_is_left_for_every_worker(self) -> None:
        shelf = Shelf()
        ports = replace(shelved(shelf), workers=4)  # of which one alone writes
        evolve(replace(LONG, cache_bytes=40 * LARGEST), ports)
        assert noticed(ports) == []
        assert shelf.most <= (40 - 3) * LARGEST

    def test_a_budget_that_is_too_small_costs_time_alone(
        self, unlimited: tuple[EvolutionState, Shelf]
    ) -> None:
        shelf = Shelf()
        ports = shelved(shelf)
        state = evolve(replace(LONG, cache_bytes=4 * LARGEST), ports)
        assert state == unlimited[0]
        assert shelf.made_again

    def test_what_queued_jobs_need_stays_and_the_user_is_told_what_that_is(self) -> None:
        budget, shelf = 4 * LARGEST, Shelf()
        ports = shelved(shelf)
        spec = replace(LONG, cache_bytes=budget)
        over: list[int] = []

        class Bound(Watcher):
            def on_notice(self, topic: str, text: str) -> None:
                super().on_notice(topic, text)
                state = self.told[-1][1]
                needed = {c.address for c in claims(state, spec) if c.use is Use.QUEUED}
                assert shelf.sizes.keys() <= needed
                over.append(sum(shelf.sizes.values()))

        evolve(spec, replace(ports, observer=(watcher := Bound(ports.runs))))
        assert max(over) > budget
        topics = {topic for topic, _ in watcher.noticed}
        assert topics == {"cache_bytes"}
        assert watcher.noticed[0][1].startswith("cache_bytes is 1.18 MB, and what queued jobs")

    def test_a_parent_that_is_evicted_comes_back_when_a_child_asks(self) -> None:
        shelf = Shelf()
        spec = replace(LONG, cache_bytes=24 * LARGEST)
        evolve(spec, shelved(shelf))
        assert shelf.made_again

    def test_the_store_is_asked_once_for_each_checkpoint_and_for_what_jobs_inherit(self) -> None:
        shelf = Shelf()
        ports = shelved(shelf)
        evolve(replace(LONG, cache_bytes=48 * LARGEST), ports)
        assert not shelf.made_again
        assert isinstance(ports.executor, WatchedExecutor)
        inherited = sum(len(job.inherits) for job in ports.executor.jobs)
        assert len(shelf.asked) <= len(set(shelf.asked)) + inherited

    @pytest.mark.parametrize("at", [5, 19, 33, 47])
    def test_a_killed_run_goes_on_to_the_same_end(self, at: int) -> None:
        spec = replace(LONG, evolution=replace(SPEC.evolution, generations=3))
        expected = evolve(spec, shelved(Shelf()))
        runs, shelf = MemoryRunStore(), Shelf()
        tight = replace(spec, cache_bytes=16 * LARGEST)
        with pytest.raises(KilledError):
            evolve(tight, replace(shelved(shelf), runs=DyingRunStore(runs, at, durable=True)))
        assert evolve(tight, replace(shelved(shelf), runs=runs)) == expected


def test_without_a_budget_a_run_leaves_nothing_that_its_events_do_not_name(
    unlimited: tuple[EvolutionState, Shelf],
) -> None:
    shelf, runs = Shelf(), MemoryRunStore()
    state = evolve(LONG, replace(shelved(shelf), runs=runs))
    assert any(trial.candidate.derivation for trial in state.trials)
    made = [(e.trial, e.outcome) for e in runs.events() if isinstance(e, StageFinished)]
    assert shelf.sizes.keys() <= {claim.address for claim in claims(state, LONG, made)}


class Unreachable(Shelf):
    """A store whose server is down."""

    def size(self, address: str) -> int | None:
        raise CheckpointError("s3://bucket: can't be looked up.\nCheck the network.")

    def discard(self, addresses: Iterable[str]) -> None:
        if list(addresses):
            raise CheckpointError("s3://bucket: can't be removed.\nCheck the network.")


@pytest.mark.parametrize("budget", [None, LARGEST])
def test_a_store_that_cannot_be_reached_ends_no_run(
    budget: int | None, unlimited: tuple[EvolutionState, Shelf]
) -> None:
    ports = shelved(Unreachable())
    assert evolve(replace(LONG, cache_bytes=budget), ports) == unlimited[0]
    assert {topic for topic, _ in noticed(ports)} == {"cache"}
    assert noticed(ports)[0][1].endswith(
        "Check the network.\nThe run goes on with what it can reach."
    )


@pytest.mark.parametrize("screen", [Screen, ComparisonScreen])
def test_a_notice_is_told_once(screen: type[Screen] | type[ComparisonScreen]) -> None:
    console = Console(file=io.StringIO(), width=80)
    with screen(SPEC, console) as shown:
        for topic, text in (("cache", "first"), ("cache", "second"), ("cache_bytes", "third")):
            shown.on_notice(topic, text)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines()[1:] == ["first", "third"]


class TestRememberedSizes:
    def test_each_is_asked_for_once(self) -> None:
        shelf = Shelf({"a": 1})
        store = RememberedSizes(shelf)
        assert [store.size("a"), store.size("b"), store.size("a"), store.size("b")] == [
            1,
            None,
            1,
            None,
        ]
        assert shelf.asked == ["a", "b"]

    def test_whether_it_is_held_is_asked_again(self) -> None:
        shelf = Shelf({"a": 1})
        store = RememberedSizes(shelf)
        assert not store.holds("b")
        shelf.sizes["b"] = 2
        assert store.size("b") is None
        assert store.holds("b")
        assert store.size("b") == 2

    def test_what_is_put_or_discarded_is_known(self, tmp_path: Path) -> None:
        store = RememberedSizes(FsspecCheckpointStore(tmp_path))
        address = hashlib.sha256(b"weights").hexdigest()
        assert store.size(address) is None
        assert store.put(b"weights") == address
        assert store.size(address) == 7
        assert store.get(address) == b"weights"
        store.discard([address])
        assert store.size(address) is None
        assert not store.holds(address)


REAL = RunSpec(
    name="tiny",
    base_model="tiny",
    tasks=(TaskSettings(name="colour"),),
    space=SearchSpace(
        base=with_values(
            TrainingPlan(),
            {
                "adapter.rank": 4,
                "adapter.target_modules": ("query", "value"),
                "schedule.batch_size": 8,
                "schedule.learning_rate": 1e-2,
                "encoding.sequence_len": 16,
            },
        ),
        genes=(
            FloatGene(path="schedule.learning_rate", low=1e-3, high=3e-2, log=True),
            IntGene(path="adapter.rank", low=3, high=6),
        ),
    ),
    evolution=EvolutionSettings(population_size=4, generations=4),
    training_stages=(
        Stage(name="short", epoch_budget=0.5, data_percentage=50, survival_rate=0.5),
        Stage(name="long", epoch_budget=1.0, data_percentage=100, survival_rate=1),
    ),
    prune=PruneSettings(rules=(), audit_fraction=0.3),
    warm_start=WarmStartSettings(cold_share=0.25),
    soup=SoupSettings(candidates=2, tunings=2),
    squeeze=SqueezeSettings(ranks=(2,), energies=(), sources=1),
    confirm=ConfirmSettings(top_k=1, seeds=1),
)


class Weighing:
    """An executor that weighs a folder whenever a job has ended."""

    def __init__(self, trainer: LoraTrainer, folder: Path) -> None:
        self.inner = InlineExecutor(trainer)
        self.folder = folder
        self.most = 0

    def survey(self) -> Survey:
        return self.inner.survey()

    def run(self, jobs: Iterable[TrainingJob]) -> Iterator[Outcome]:
        for outcome in self.inner.run(jobs):
            self.most = max(self.most, weight(self.folder))
            yield outcome

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        return self.inner.score(finalists, seed)

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.inner.close()


def weight(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


Build = Callable[[Path], tuple[Ports, Weighing]]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return what makes the ports of real training whose checkpoints lie in a folder."""
    import torch

    from coral.training.base import load_base
    from coral.training.trainer import LoraTrainer
    from tests.training.models import colours, load, save_model

    torch.set_num_threads(1)
    model = save_model(tmp_path_factory.mktemp("tiny"))
    base = load_base(str(model), device="cpu", trust_remote_code=False)

    def ports(folder: Path) -> tuple[Ports, Weighing]:
        store = FsspecCheckpointStore(folder)
        trainer = LoraTrainer(base, load(colours(96)), store, report=lambda progress: None)
        executor, runs = Weighing(trainer, folder), MemoryRunStore()
        made = Ports(
            executor=executor,
            runs=runs,
            checkpoints=RememberedSizes(store),
            observer=Watcher(runs),
            survey=executor.survey(),
            workers=1,
        )
        return made, executor

    return ports


def decisions(state: EvolutionState) -> str:
    """What evictions must not change, as text, for some metrics of so few steps are NaN."""
    assert state.confirmation is not None
    contestants = [
        (one.kind, one.trial, one.seed, one.metrics, one.optimizer_steps)
        for one in state.confirmation.contestants
    ]
    trials = [
        (t.candidate, t.verdict, [(o.stage, o.metrics, o.cumulative_steps) for o in t.outcomes])
        for t in state.trials
    ]
    return repr([trials, state.champion, state.front, contestants, state.confirmation.scores])


@pytest.fixture(scope="module")
def free(build: Build, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvolutionState, int, int]:
    """A real run without a budget, its largest checkpoint's size, and what all of them take."""
    folder = tmp_path_factory.mktemp("free")
    state = evolve(REAL, build(folder)[0])
    largest = max(o.checkpoint_bytes for trial in state.trials for o in trial.outcomes)
    return state, largest, weight(folder)


def test_real_training_in_little_room_ends_with_the_same_champion(
    build: Build, free: tuple[EvolutionState, int, int], tmp_path: Path
) -> None:
    expected, largest, all_of_them = free
    budget = 6 * largest
    ports, executor = build(tmp_path)
    state = evolve(replace(REAL, cache_bytes=budget), ports)
    assert decisions(state) == decisions(expected)
    assert executor.most <= budget < all_of_them / 2
    assert noticed(ports) == []


@pytest.mark.parametrize("at", [6, 14])
def test_a_run_whose_cache_was_deleted_goes_on_within_its_budget(
    at: int, build: Build, free: tuple[EvolutionState, int, int], tmp_path: Path
) -> None:
    spec = replace(REAL, cache_bytes=5 * free[1])
    runs = MemoryRunStore()
    ports, _ = build(tmp_path / "cache")
    with pytest.raises(KilledError):
        evolve(spec, replace(ports, runs=DyingRunStore(runs, at, durable=True)))
    shutil.rmtree(tmp_path / "cache")
    ports, executor = build(tmp_path / "cache")
    state = evolve(spec, replace(ports, runs=runs))
    assert decisions(state) == decisions(free[0])
    assert executor.most <= 5 * free[1]


def test_on_a_full_disk_trials_fail_and_the_run_goes_on(
    build: Build, free: tuple[EvolutionState, int, int], tmp_path: Path
) -> None:
    ports, _ = build(tmp_path)
    with largest_file(free[1] - 1):
        state = evolve(REAL, ports)
    failures = [o.failure for trial in state.trials for o in trial.outcomes if o.failure]
    assert failures
    assert all("can't be written" in failure.message for failure in failures)
    assert state.confirmation is not None


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Inside the block, the kernel refuses to let a file of ours grow past this many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
