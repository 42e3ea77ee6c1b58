"""How genomes are ranked, and how good an early choice was."""

from __future__ import annotations

import math
from dataclasses import replace

from coral.records import Failure, Objective, Outcome
from coral.reporting.comparison import FALLEN, agreement, choice_facts, standing

AUROC = Objective(metric="auroc")
LOSS = Objective(metric="log_loss", direction="min")


def outcome(stage: int = 0, **metrics: float) -> Outcome:
    return Outcome(key="work", stage=stage, metrics=metrics)


def test_a_higher_stage_outranks_a_better_value() -> None:
    far, near = [outcome(0, auroc=0.5), outcome(1, auroc=0.6)], [outcome(0, auroc=0.9)]
    assert standing(far, AUROC) > standing(near, AUROC)


def test_a_lower_loss_outranks_a_higher_one() -> None:
    assert standing([outcome(log_loss=0.3)], LOSS) > standing([outcome(log_loss=0.4)], LOSS)


def test_a_genome_that_failed_is_below_all_others_however_far_it_came() -> None:
    failed = replace(outcome(1, auroc=0.95), failure=Failure(kind="diverged", message="nan"))
    assert standing([outcome(0, auroc=0.9), failed], AUROC) == FALLEN
    assert standing([outcome(0, auroc=math.nan)], AUROC) == FALLEN
    assert standing([outcome(0, log_loss=50.0)], LOSS) > FALLEN


def test_genomes_that_failed_tie() -> None:
    assert agreement([FALLEN, FALLEN, (0, 1.0)], [(0, 1.0), (0, 2.0), (0, 3.0)]) < 1
    assert math.isnan(agreement([FALLEN, FALLEN], [(0, 1.0), (0, 2.0)]))


def test_rankings_agree_in_order_and_not_in_value() -> None:
    one = [(0, 0.7), (1, 0.6), (1, 0.9)]
    assert agreement(one, [(0, 0.1), (0, 0.2), (0, 0.3)]) == 1
    assert agreement(one, [(0, 0.3), (0, 0.2), (0, 0.1)]) == -1


def test_regret_is_what_a_choice_lacks_to_the_best() -> None:
    full = [(0, 0.5), (0, 0.75), (0, 1.0), FALLEN]
    assert choice_facts(1, full) == {
        "trial": 1,
        "naive_best": 2,
        "naive_place": 2,
        "regret": 0.25,
    }
    assert choice_facts(2, full)["regret"] == 0


def test_a_choice_that_failed_has_no_regret_in_numbers() -> None:
    assert choice_facts(1, [(0, 0.5), FALLEN]) == {
        "trial": 1,
        "naive_best": 0,
        "naive_place": 2,
        "regret": None,
    }
