"""Two parents at once, and parents whose weights are lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coral.errors import CheckpointError
from coral.ports import TrainingJob
from coral.settings import FaultRates
from coral.simulation.faults import is_lost
from coral.simulation.transfer import Made, energy_share
from coral.simulation.weights import SimulatedWeights, address_of, weights_at
from tests.simulation.families import KEEPING, LAST, PLAN, address, begun
from tests.simulation.worlds import (
    LADDER,
    course_of,
    job_of,
    legacy,
    plan_of,
    trained,
)


class TestTwoParents:
    @staticmethod
    def pair(**changes: Any) -> tuple[SimulatedWeights, SimulatedWeights]:
        other = plan_of(adapter__rank=8, schedule__learning_rate=1e-3)
        one, two = weights_at(address()), weights_at(address(other))
        return replace(one, steps=40, **changes), replace(two, steps=99, **changes)

    def child(
        self,
        parents: tuple[SimulatedWeights, SimulatedWeights],
        rank: int = 16,
        least: float = 0.0,
        **genes: Any,
    ) -> Made:
        plan = plan_of(adapter__rank=rank, **{f"inheritance__{n}": v for n, v in genes.items()})
        return begun(plan, *map(address_of, parents), min_retained_energy=least)

    def test_a_blend_lies_between_its_parents(self) -> None:
        one, two = self.pair()
        for mixing in (0.2, 0.8):
            made = self.child((one, two), mixing=mixing).weights
            for task, progress in made.progress.items():
                for part in (0, 1):
                    low, high = sorted(w.progress[task][part] for w in (one, two))
                    assert low < progress[part] < high
        near, far = (self.child((one, two), mixing=m).weights for m in (0.9, 0.1))
        for task in near.progress:
            better = abs(near.progress[task][1] - one.progress[task][1])
            assert better < abs(far.progress[task][1] - one.progress[task][1])

    def test_the_longest_line_of_those_used_is_counted(self) -> None:
        parents = self.pair()
        assert self.child(parents).weights.steps == 99
        assert self.child(parents, mixing=1.0).weights.steps == 40
        assert self.child(parents, rank=1, least=0.9).weights.steps == 40

    def test_all_of_a_blend_fits_into_the_sum_of_the_ranks(self) -> None:
        parents = self.pair(breadth=3.0)
        kept = [self.child(parents, rank=r).account.retained_energy for r in (2, 4, 8, 12, 16)]
        assert kept == sorted(kept)
        assert kept[3] < kept[4] == 1

    def test_a_blend_that_does_not_fit_leaves_the_better_parent_alone(self) -> None:
        parents = self.pair()
        made, alone = (
            self.child(parents, rank=1, least=0.9),
            begun(plan_of(adapter__rank=1), address_of(parents[0])),
        )
        assert made.account == alone.account
        assert made.weights == alone.weights
        assert made.note == (
            "inherits from trial 10 alone: too little of its blend with trial 11 fits into rank 1"
        )
        outcome = trained(
            job_of(
                plan_of(adapter__rank=1),
                inherits=legacy(*map(address_of, parents)),
                min_retained_energy=0.9,
            )
        )
        assert outcome.notes == (made.note,)

    def test_a_blend_that_fits_has_two_sources_and_no_moments(self) -> None:
        made = self.child(self.pair(), least=0.9)
        assert made.account.sources == (10, 11)
        assert not made.account.moments_kept
        assert made.note == ""

    def test_unlike_parents_need_more_rank_than_like_ones(self) -> None:
        one, two = self.pair()
        apart = self.child((one, two), rank=4).account.retained_energy
        alike = self.child((one, replace(two, place=one.place)), rank=4).account.retained_energy
        assert apart < alike

    def test_layers_come_whole_from_one_parent_each(self) -> None:
        one, two = self.pair()
        small = replace(two, rank=2, parts=(replace(two.parts[0], rank=2),))
        shrunk = round(energy_share(4, 8, KEEPING.inheritance.spectrum), 6)
        found = set()
        for mixing in (0.2, 0.5, 0.8):
            made = self.child((one, small), rank=4, crossover="layers", mixing=mixing)
            kept: dict[str, set[float]] = {}
            for name, share in made.account.by_module.items():
                kept.setdefault(name.split(".")[1], set()).add(share)
            assert all(len(shares) == 1 for shares in kept.values())
            found |= set().union(*kept.values())
            heads = {task: pair[0] for task, pair in made.weights.progress.items()}
            assert heads == pytest.approx({t: p[0] for t, p in one.progress.items()})
        assert found == {shrunk, 1.0}

    def test_layers_that_all_fit_keep_their_moments(self) -> None:
        assert self.child(self.pair(), crossover="layers").account.moments_kept

    def test_the_layers_are_the_same_in_every_stage(self) -> None:
        fields = {
            "inherits": legacy(*map(address_of, self.pair())),
            "profile": KEEPING,
        }
        plan = plan_of(inheritance__crossover="layers")
        whole = course_of(plan, **fields)
        early = course_of(plan, LADDER[:2], **fields)
        assert whole.start == early.start


class TestLostParents:
    GONE = "sha256:abc"

    def job(self, stage: int = 1) -> tuple[TrainingJob, TrainingJob]:
        """Return a child's job and the job that made its parent."""
        maker = job_of(plan_of(adapter__rank=4), LAST)
        (parent,) = legacy(trained(maker).checkpoint or "")
        parent = replace(parent, key=maker.key)
        return job_of(PLAN, stage, inherits=(parent,), entry=1), maker

    @pytest.mark.parametrize("address", ["sha256:abc", "simulated:", "simulated:[1]"])
    def test_a_job_that_cant_read_them_says_so(self, address: str) -> None:
        outcome = trained(job_of(PLAN, inherits=legacy(address)))
        assert outcome.failure is not None
        assert outcome.failure.kind == "lost"
        assert "trial 10" in outcome.failure.message
        with pytest.raises(CheckpointError, match="no simulated checkpoint"):
            weights_at(address)

    def test_a_job_that_knows_how_they_were_made_makes_them_again(self) -> None:
        job, maker = self.job()
        gone = replace(
            job,
            inherits=(replace(job.inherits[0], address=self.GONE),),
            ancestors=(maker,),
        )
        whole, again = trained(job), trained(gone)
        assert again.notes == ("trial 10 made again, for its weights are lost",)
        assert again.cost.optimizer_steps == (
            whole.cost.optimizer_steps + trained(maker).cost.optimizer_steps
        )
        assert replace(again, cost=whole.cost, notes=()) == whole

    def test_misfortune_loses_them_at_the_entry_alone(self) -> None:
        job, maker = self.job()
        rates = FaultRates(lost_checkpoint=1.0)
        lost = trained(job, faults=rates)
        assert lost.failure is not None
        assert lost.failure.kind == "lost"
        found = trained(replace(job, ancestors=(maker,)), faults=rates)
        assert found.metrics == trained(job).metrics

    def test_misfortune_loses_parents_only_to_jobs_that_read_them(self) -> None:
        rates, lost = FaultRates(lost_checkpoint=0.5), 0
        for seed in range(40):
            job = replace(self.job(2)[0], seed=seed, key=f"job {seed}", resume_from="simulated:")
            failed = trained(job, faults=rates).failure is not None
            assert not failed or is_lost(rates, job)
            lost += failed
        assert 0 < lost < 20

    def test_lost_grandparents_are_made_again_too(self) -> None:
        job, maker = self.job()
        (parent,) = job.inherits
        middle = replace(job, key="middle", inherits=(replace(parent, address=self.GONE),))
        whole = trained(replace(job, inherits=legacy(trained(job).checkpoint or "")))
        again = trained(
            replace(
                job,
                inherits=(replace(parent, key="middle", address=self.GONE),),
                ancestors=(maker, middle),
            )
        )
        assert again.cumulative_steps == whole.cumulative_steps
        assert again.cost.optimizer_steps == sum(
            trained(each).cost.optimizer_steps for each in (maker, job, job)
        )
