"""One clear message for each fault: file, line, dotted key, rule, value and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from coral.errors import ConfigError
from coral.spec import load_config
from tests.spec.configs import HEAD, REGISTRY, Faults, Load, faults_of, only

LADDER = """\
training_stages:
  - {name: probe, epoch_budget: 0.5, data_percentage: 50, survival_rate: 0.5}
  - name: final
    epoch_budget: 1
    data_percentage: 100
    survival_rate: 0.5
"""


@dataclass(frozen=True)
class Case:
    """A config's text from line 3 on, and the one fault in it."""

    text: str
    line: int
    key: str
    rule: str
    remedy: str


CASES = {
    "an unknown key": Case(
        "evolution:\n  populaton_size: 8\n",
        4,
        "evolution.populaton_size",
        "unknown key",
        "Did you mean 'population_size'?",
    ),
    "an unknown key at the top": Case(
        "\nserch_space: {}\n", 4, "serch_space", "unknown key", "Did you mean 'search_space'?"
    ),
    "an unknown key that is like no other": Case(
        "budget: {euros: 5}\n",
        3,
        "budget.euros",
        "unknown key",
        "Known keys: max_optimizer_steps, max_epochs, max_wall_seconds.",
    ),
    "an unknown field of a part": Case(
        "training:\n  schedule:\n    lerning_rate: 1.0e-3\n",
        5,
        "training.schedule.lerning_rate",
        "unknown key",
        "Did you mean 'learning_rate'?",
    ),
    "an unknown gene": Case(
        "search_space:\n  lora_rnk: [4, 8]\n",
        4,
        "search_space.lora_rnk",
        "unknown key",
        "Did you mean 'lora_rank'?",
    ),
    "an unknown key of a gene": Case(
        "search_space:\n  lora_r:\n    low: 2\n    hihg: 8\n",
        6,
        "search_space.lora_r.hihg",
        "unknown key",
        "Did you mean 'high'?",
    ),
    "a text for a number": Case(
        "learning_rate: fast\n",
        3,
        "learning_rate",
        'must be a number, got "fast"',
        "the default is 0.0002.",
    ),
    "a number for a mapping": Case(
        "execution: 5\n", 3, "execution", "must be a mapping, got 5", "Write `key: value` lines."
    ),
    "a mapping for a list": Case(
        "training_stages: {a: 1}\n",
        3,
        "training_stages",
        'must be a list, got {"a": 1}',
        "Write `- item` lines.",
    ),
    "a broken number for a whole one": Case(
        "evolution: {generations: 2.5}\n",
        3,
        "evolution.generations",
        "must be a whole number, got 2.5",
        "the default is 3.",
    ),
    "one for true": Case(
        "execution: {trust_remote_code: 1}\n",
        3,
        "execution.trust_remote_code",
        "must be true or false, got 1",
        "the default is false.",
    ),
    "an option that does not exist": Case(
        "evolution: {selection: nsga4}\n",
        3,
        "evolution.selection",
        "must be 'nsga2', 'nsga3' or 'tournament', got \"nsga4\"",
        "Did you mean 'nsga3'?",
    ),
    "either of two types": Case(
        "execution: {workers: many}\n",
        3,
        "execution.workers",
        "must be a whole number or 'auto', got \"many\"",
        'the default is "auto".',
    ),
    "an item of a list": Case(
        "lora_target_modules:\n  - query\n  - 5\n",
        5,
        "lora_target_modules[1]",
        "must be a text, got 5",
        'the default is "all-linear".',
    ),
    "an entry of a mapping": Case(
        "task_weights:\n  origin: 0.5\n  kind: half\n",
        5,
        "task_weights.kind",
        'must be a number, got "half"',
        "leave the key out",
    ),
    "a number that is not finite": Case(
        "budget: {max_epochs: .inf}\n",
        3,
        "budget.max_epochs",
        "must be finite",
        "leave the key out",
    ),
    "no number at all": Case(
        "learning_rate: .nan\n", 3, "learning_rate", "must be finite, got NaN", "0.0002."
    ),
    "a number beyond all others": Case(
        f"lora_r: 1{'0' * 400}\n", 3, "lora_r", "must be finite, got 1000", "the default is 16."
    ),
    "a date": Case("seed: 2020-01-01\n", 3, "seed", 'got "2020-01-01"', "the default is 0."),
    "an inverted range": Case(
        "\nsearch_space:\n  lora_r: {low: 64, high: 8}\n",
        5,
        "search_space.lora_r",
        "low <= high must hold, got low=64, high=8",
        "Swap the bounds, or remove the gene to keep the default rank (16).",
    ),
    "an empty range": Case(
        "search_space: {learning_rate: {low: 1e-3, high: 1e-3}}\n",
        3,
        "search_space.learning_rate",
        "the range is empty, got low=high=0.001",
        "Correct it, or remove the gene to keep the default learning rate (0.0002).",
    ),
    "a range without an end": Case(
        "search_space: {lora_r: {low: 1, high: .inf}}\n",
        3,
        "search_space.lora_r",
        "high must be finite",
        "remove the gene",
    ),
    "a range with one bound": Case(
        "search_space: {lora_r: {low: 2}}\n",
        3,
        "search_space.lora_r",
        "high must be a number, got null",
        "remove the gene",
    ),
    "a log scale from zero": Case(
        "search_space: {warmup_ratio: {low: 0, high: 0.2, log: true}}\n",
        3,
        "search_space.warmup_ratio",
        "a log scale needs low > 0, got low=0",
        "remove the gene to keep the default warmup ratio (0.1).",
    ),
    "a range of what is no number": Case(
        "search_space: {lr_scheduler: {low: 0, high: 1}}\n",
        3,
        "search_space.lr_scheduler",
        "schedule.scheduler is not a number, so it needs `choices`",
        'the default scheduler ("cosine")',
    ),
    "broken bounds of whole numbers": Case(
        "search_space: {lora_r: {low: 1.5, high: 8}}\n",
        3,
        "search_space.lora_r",
        "is a whole number, got low=1.5, high=8",
        "remove the gene",
    ),
    "a range beyond the field's bounds": Case(
        "search_space:\n  lora_dropout:\n    low: 0.0\n    high: 1.0\n",
        6,
        "search_space.lora_dropout.high",
        "must be < 1, got 1.0",
        "Keep the gene within what a plan allows.",
    ),
    "a rank that is not positive": Case(
        "lora_r: 0\n", 3, "lora_r", "must be > 0, got 0", "the default is 16."
    ),
    "a searched rank that is not positive": Case(
        "search_space:\n  lora_r:\n    low: -1\n    high: 8\n",
        5,
        "search_space.lora_r.low",
        "must be > 0, got -1",
        "the default is 16.",
    ),
    "a choice that does not fit": Case(
        "search_space:\n  batch_size:\n    - 8\n    - many\n",
        6,
        "search_space.batch_size[1]",
        'must be a whole number, got "many"',
        "the default is 16.",
    ),
    "a choice of layers that does not exist": Case(
        "search_space:\n  layers:\n    choices:\n      - all\n      - upper-3\n",
        7,
        "search_space.layers.choices[1]",
        "must be 'all', 'top-N', 'bottom-N' or 'FIRST-LAST', got 'upper-3'",
        "Keep the gene within",
    ),
    "no choices": Case(
        "search_space:\n  lr_scheduler: []\n",
        4,
        "search_space.lr_scheduler",
        "choices must not be empty, got []",
        'remove the gene to keep the default scheduler ("cosine").',
    ),
    "one choice": Case(
        "search_space: {lora_r: [8]}\n",
        3,
        "search_space.lora_r",
        "a choice needs at least two options, got [8]",
        "remove the gene",
    ),
    "two forms of a gene at once": Case(
        "search_space: {lora_r: {choices: [2, 4], low: 2}}\n",
        3,
        "search_space.lora_r",
        "a gene has one form, got choices, low",
        "remove the gene",
    ),
    "a number for a gene": Case(
        "search_space: {lora_r: 8}\n",
        3,
        "search_space.lora_r",
        "a gene is a list of choices or a mapping with low and high, got 8",
        "To fix the field, set it under `training`.",
    ),
    "a subset of one value": Case(
        "search_space: {layers: {subset: [all, top-2]}}\n",
        3,
        "search_space.layers",
        "takes one value, not a subset",
        "remove the gene",
    ),
    "a subset of texts and numbers": Case(
        "search_space: {target_modules: {subset: [query, 1]}}\n",
        3,
        "search_space.target_modules",
        'a list of names is needed, got ["query", 1]',
        "remove the gene",
    ),
    "a subset that is never large enough": Case(
        "search_space: {target_modules: {subset: [query, value], least: 2}}\n",
        3,
        "search_space.target_modules",
        "least must lie in [1, 1] for 2 names, got 2",
        "remove the gene",
    ),
    "shares of another task": Case(
        "search_space: {task_weights: {simplex: [origin, topic]}}\n",
        3,
        "search_space.task_weights",
        "shares go to the run's tasks (origin, kind), got topic",
        "remove the gene to keep the default weights.",
    ),
    "a floor that is too high": Case(
        "search_space: {task_weights: {floor: 0.5}}\n",
        3,
        "search_space.task_weights",
        "floor must be >= 0 and leave room for 2 shares, got 0.5",
        "remove the gene",
    ),
    "a condition on no field": Case(
        "search_space:\n  lora_r:\n    choices: [2, 4]\n    when: {curriculum.knd: none}\n",
        6,
        "search_space.lora_r.when.curriculum.knd",
        "unknown key",
        "Did you mean 'curriculum.kind'?",
    ),
    "a condition on a value that does not exist": Case(
        "search_space:\n  lora_r: {choices: [2, 4], when: {curriculum.kind: steep}}\n",
        4,
        "search_space.lora_r.when.curriculum.kind",
        "must be 'none' or 'progressive', got \"steep\"",
        'the default is "none".',
    ),
    "a condition that is no mapping": Case(
        "search_space: {lora_r: {choices: [2, 4], when: always}}\n",
        3,
        "search_space.lora_r.when",
        'when names one field and its values, got "always"',
        "`when: {curriculum.kind: progressive}`",
    ),
    "a gene that can never be active": Case(
        "search_space:\n  curriculum.ramp: {low: 0.1, high: 0.9}\n",
        4,
        "search_space.curriculum.ramp",
        'only has an effect where curriculum.kind is "progressive", got "none"',
        "Set curriculum.kind under `training`, search it, or remove the gene.",
    ),
    "no genes": Case(
        "search_space: {}\n",
        3,
        "search_space",
        "must search at least one field, got none",
        "remove the key for the default space",
    ),
    "a survival rate of zero": Case(
        LADDER.replace("survival_rate: 0.5\n", "survival_rate: 0\n"),
        8,
        "training_stages[1].survival_rate",
        "must be > 0, got 0",
        "Correct the value.",
    ),
    "a survival rate above one": Case(
        LADDER.replace("survival_rate: 0.5\n", "survival_rate: 1.2\n"),
        8,
        "training_stages[1].survival_rate",
        "must be <= 1, got 1.2",
        "Correct the value.",
    ),
    "a budget that shrinks": Case(
        LADDER.replace("epoch_budget: 1\n", "epoch_budget: 0.25\n"),
        6,
        "training_stages[1].epoch_budget",
        "must grow from stage to stage, got probe=0.5, final=0.25",
        "Raise it, or lower that of probe.",
    ),
    "a budget that stays": Case(
        LADDER.replace("epoch_budget: 1\n", "epoch_budget: 0.5\n"),
        6,
        "training_stages[1].epoch_budget",
        "must grow from stage to stage, got probe=0.5, final=0.5",
        "Raise it, or lower that of probe.",
    ),
    "a percentage that shrinks": Case(
        LADDER.replace("percentage: 100", "percentage: 20"),
        7,
        "training_stages[1].data_percentage",
        "must not shrink from stage to stage, got probe=50, final=20",
        "Raise it, or lower that of probe.",
    ),
    "two stages of one name": Case(
        LADDER.replace("final", "probe"),
        5,
        "training_stages[1].name",
        'stage names must differ, "probe" is already above',
        "Rename one of the two.",
    ),
    "a stage whose name is taken": Case(
        LADDER.replace("final", "parent"),
        5,
        "training_stages[1].name",
        "parent stands for another stage in warm_start.entry",
        "Give the stage another name, such as S0_sanity.",
    ),
    "a stage without a budget": Case(
        LADDER.replace("    epoch_budget: 1\n", ""),
        5,
        "training_stages[1].epoch_budget",
        "must be given",
        "Add `epoch_budget: ...` here.",
    ),
    "a stage that is a number": Case(
        "training_stages: [5]\n",
        3,
        "training_stages[0]",
        "must be a mapping, got 5",
        "Write `key: value` lines.",
    ),
    "no stages": Case(
        "training_stages: []\n",
        3,
        "training_stages",
        "must hold at least one stage, got []",
        "remove the key for the default ladder",
    ),
    "epochs that contradict the ladder": Case(
        f"{LADDER}num_epochs: 3\n",
        9,
        "num_epochs",
        "must equal the last stage's epoch_budget (1), got 3",
        "Remove it: training_stages says how long training is.",
    ),
    "an objective that no task gives": Case(
        "objectives:\n  - auroc\n  - metric: f1\n",
        5,
        "objectives[1].metric",
        "no task of this run gives it, got f1",
        "Metrics that exist: auroc, log_loss, peak_memory_bytes, train_cost, trainable_parameters,"
        " kind.auroc, kind.log_loss, origin.auroc, origin.log_loss, origin.recall.",
    ),
    "an objective that one task gives, without its name": Case(
        "objectives: [recall]\n",
        3,
        "objectives[0]",
        "no task of this run gives it, got recall",
        "Did you mean 'origin.recall'?",
    ),
    "a direction that does not exist": Case(
        "objectives: [{metric: auroc, direction: up}]\n",
        3,
        "objectives[0].direction",
        "must be 'max' or 'min', got \"up\"",
        'the default is "max".',
    ),
    "an objective without a metric": Case(
        "objectives: [{direction: max}]\n",
        3,
        "objectives[0].metric",
        "must be given",
        "Add `metric: ...` here.",
    ),
    "an objective that is a number": Case(
        "objectives: [5]\n",
        3,
        "objectives[0]",
        "must be a metric's name, or a mapping with a metric, got 5",
        "Metrics that exist: auroc",
    ),
    "an objective said twice": Case(
        "objectives:\n  - auroc\n  - auroc\n",
        5,
        "objectives[1]",
        "auroc must be named once, it is already above",
        "Remove one of the two.",
    ),
    "a first objective that nobody can measure again": Case(
        "objectives: [peak_memory_bytes, auroc]\n",
        3,
        "objectives[0]",
        "can't begin with peak_memory_bytes, which no two runs measure the same",
        "Put first what decides who is handed over",
    ),
    "no objectives": Case(
        "objectives: []\n",
        3,
        "objectives",
        "must hold at least one metric, got []",
        "Metrics that exist: auroc",
    ),
    "a rule at no stage": Case(
        "prune:\n  - {metric: auroc, below: 0.5, stage: S1_shakedown}\n",
        4,
        "prune[0].stage",
        "no stage of this run has this name, got S1_shakedown",
        "Did you mean 'S1_shakeout'?",
    ),
    "a rule on no metric": Case(
        "prune:\n  rules:\n    - {metric: grad_norm, above: 5}\n",
        5,
        "prune.rules[0].metric",
        "neither a proxy nor a metric of this run's tasks, got grad_norm",
        "Did you mean 'gradient_norm'?",
    ),
    "a rule without a threshold": Case(
        "prune:\n  - metric: auroc\n",
        4,
        "prune[0]",
        "a rule needs exactly one of above and below",
        "Correct the value.",
    ),
    "a threshold of the wrong type": Case(
        "prune:\n  - metric: auroc\n    above: [0.5]\n",
        5,
        "prune[0].above",
        "must be a number or a text, got [0.5]",
        "leave the key out",
    ),
    "a threshold in other words": Case(
        "prune:\n  - {metric: gradient_norm, above: five times}\n",
        4,
        "prune[0]",
        "a threshold is a number or like '5x median', got 'five times'",
        "Correct the value.",
    ),
    "a recipe with an unknown field": Case(
        "evolution:\n  recipes:\n    - {lora_r: 8}\n    - adapter:\n        ranc: 8\n",
        7,
        "evolution.recipes[1].adapter.ranc",
        "unknown key",
        "Did you mean 'rank'?",
    ),
    "a recipe with a wrong value": Case(
        "evolution:\n  recipes:\n    - lora_r: large\n",
        5,
        "evolution.recipes[0].lora_r",
        'must be a whole number, got "large"',
        "the default is 16.",
    ),
    "a population of one": Case(
        "evolution: {population_size: 1}\n",
        3,
        "evolution.population_size",
        "must be >= 2, got 1",
        "the default is 8.",
    ),
    "weights that do not sum to one": Case(
        "training:\n  tasks:\n    weights: {origin: 0.5, kind: 0.2}\n",
        5,
        "training.tasks.weights",
        "must sum to 1, got 0.7",
        "leave the key out",
    ),
    "weights of another task": Case(
        "training:\n  task_weights: {origin: 0.5, topic: 0.5}\n",
        4,
        "training.task_weights",
        "weights name tasks that the run does not have: topic",
        "The run's tasks: origin, kind.",
    ),
    "a mode that does not exist": Case(
        "mode: simulated\n",
        3,
        "mode",
        "must be 'real' or 'simulate', got \"simulated\"",
        "Did you mean 'simulate'?",
    ),
    "an unknown key of the simulation": Case(
        "simulation: {profil: mine}\n",
        3,
        "simulation.profil",
        "unknown key",
        "Did you mean 'profile'?",
    ),
    "an agreement beyond all rankings": Case(
        "simulation:\n  agreement:\n    S0_sanity: 1.0\n",
        5,
        "simulation.agreement.S0_sanity",
        "must be < 1, got 1.0",
        "leave the key out",
    ),
    "an agreement of no stage": Case(
        "simulation:\n  agreement: {S1_shakedown: 0.5}\n",
        4,
        "simulation.agreement.S1_shakedown",
        "must name a stage before the last, got S1_shakedown",
        "Did you mean 'S1_shakeout'?",
    ),
    "an agreement of the last stage with itself": Case(
        "simulation: {agreement: {S3_finisher: 0.5}}\n",
        3,
        "simulation.agreement.S3_finisher",
        "must name a stage before the last, got S3_finisher",
        "Stages before the last: S0_sanity, S1_shakeout, S2_serious.",
    ),
    "an agreement on a ladder of one stage": Case(
        "training_stages:\n"
        "  - {name: only, epoch_budget: 1, data_percentage: 100, survival_rate: 1}\n"
        "simulation: {agreement: {only: 0.5}}\n",
        5,
        "simulation.agreement.only",
        "must name a stage before the last, got only",
        "This ladder has one stage; remove the key.",
    ),
    "a fault rate above one": Case(
        "simulation:\n  faults: {crash: 1.5}\n",
        4,
        "simulation.faults.crash",
        "must be <= 1, got 1.5",
        "the default is 0.0.",
    ),
    "a fault that does not exist": Case(
        "simulation:\n  faults:\n    crashes: 0.5\n",
        5,
        "simulation.faults.crashes",
        "unknown key",
        "Did you mean 'crash'?",
    ),
    "faults that are no rates": Case(
        "simulation: {faults: often}\n",
        3,
        "simulation.faults",
        'must be a mapping, got "often"',
        "Write `key: value` lines.",
    ),
    "a worker without memory": Case(
        "simulation: {memory_bytes: 0}\n",
        3,
        "simulation.memory_bytes",
        "must be > 0, got 0",
        "leave the key out",
    ),
    "a key that YAML takes for something else": Case(
        "training:\n  on: 5\n", 4, "training", "a key is text, got on", "Put the key into quotes."
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_fault_names_line_key_rule_value_and_remedy(case: Case, faults: Faults) -> None:
    fault = only(faults(case.text))
    assert (fault.where, fault.key) == (f"agnews.yaml:{case.line}", case.key)
    assert case.rule in fault.rule
    assert case.remedy in fault.remedy


def test_a_message_reads_like_the_house_style(faults: Faults) -> None:
    text = str(only(faults("search_space:\n  lora_r: {low: 64, high: 8}\n")))
    assert [line.strip() for line in text.splitlines()] == [
        "agnews.yaml:4: search_space.lora_r: low <= high must hold, got low=64, high=8.",
        "Swap the bounds, or remove the gene to keep the default rank (16).",
    ]


def test_every_fault_of_a_simulation_is_reported(faults: Faults) -> None:
    body = (
        "mode: simulate\n"
        "simulation:\n"
        "  agreement: {S0_sanity: 2, S1_shakeout: -1, S2_serious: .nan, S9: 0}\n"
        "  faults: {crash: -0.1, nan: often}\n"
    )
    assert [fault.key for fault in faults(body)] == [
        "simulation.agreement.S9",
        "simulation.agreement.S0_sanity",
        "simulation.agreement.S1_shakeout",
        "simulation.agreement.S2_serious",
        "simulation.faults.crash",
        "simulation.faults.nan",
    ]


def test_a_mode_at_fault_does_not_make_the_rest_wrong(faults_in_text: Faults) -> None:
    text = "mode: simulated\nbase_model: ./none\ntasks: [kind]\nsimulation: {memory_bytes: 2e9}\n"
    assert only(faults_in_text(text)).key == "mode"


def test_every_item_of_a_list_that_is_wrong_is_reported(faults: Faults) -> None:
    keys = [fault.key for fault in faults("lora_target_modules: [5, query, 6]\n")]
    assert keys == ["lora_target_modules[0]", "lora_target_modules[2]"]


def test_removing_a_gene_keeps_what_training_says(faults: Faults) -> None:
    body = "search_space: {batch_size: {low: 64, high: 8}}\nbatch_size: 4\n"
    assert "keep the default batch size (4)" in only(faults(body)).remedy


TASK_CASES = {
    "a task that does not exist": Case(
        "tasks:\n  - origin\n  - knd\n",
        4,
        "tasks[1]",
        "task 'knd': no plugin provides it (did you mean 'kind'?)",
        "Tasks that exist: kind, origin.",
    ),
    "an unknown option of a task": Case(
        "tasks:\n  - name: kind\n    train_example: 10\n",
        4,
        "tasks[0].train_example",
        "'train_example' isn't one of its options (did you mean 'train_examples'?)",
        "the options are shuffle, train_examples",
    ),
    "a task without a name": Case(
        "tasks:\n  - {train_examples: 10}\n",
        3,
        "tasks[0]",
        'must be a task\'s name, or a mapping with a name, got {"train_examples": 10}',
        "Tasks that exist: kind, origin.",
    ),
    "a task named twice": Case(
        "tasks:\n  - kind\n  - {name: kind}\n",
        4,
        "tasks[1]",
        "task 'kind' must be named once",
        "Remove one of the two.",
    ),
    "no tasks": Case(
        "tasks: []\n", 2, "tasks", "must hold at least one task, got []", "Tasks that exist: kind"
    ),
    "tasks left out": Case("", 1, "tasks", "must be given", "Tasks that exist: kind, origin."),
    "one task for shares": Case(
        "tasks: [kind]\nsearch_space: {task_weights: simplex}\n",
        3,
        "search_space.task_weights",
        'shares need at least two tasks, got ["kind"]',
        "remove the gene to keep the default weights.",
    ),
}


@pytest.mark.parametrize("case", TASK_CASES.values(), ids=TASK_CASES.keys())
def test_a_fault_of_a_task_names_the_tasks_or_options_that_exist(
    case: Case, faults_in_text: Faults
) -> None:
    fault = only(faults_in_text(f"base_model: org/encoder\n{case.text}"))
    assert (fault.where, fault.key) == (f"agnews.yaml:{case.line}", case.key)
    assert case.rule in fault.rule
    assert case.remedy in fault.remedy


def test_every_fault_of_one_task_is_found(faults_in_text: Faults) -> None:
    text = "base_model: org/encoder\ntasks:\n  - name: kind\n    one: 1\n    two: 2\n"
    assert [fault.key for fault in faults_in_text(text)] == ["tasks[0].one", "tasks[0].two"]


def test_a_fault_of_a_task_does_not_make_metrics_and_shares_wrong(faults_in_text: Faults) -> None:
    text = (
        "base_model: org/encoder\ntasks: [origin, knd]\n"
        "objectives: [kind.auroc]\nprune: [{metric: knd.auroc, below: 0.5}]\n"
        "search_space: {task_weights: simplex}\n"
    )
    assert only(faults_in_text(text)).key == "tasks[1]"


def test_a_fault_of_a_stage_does_not_make_its_rules_wrong(faults: Faults) -> None:
    body = f"{LADDER.replace('1', '0')}prune: [{{metric: auroc, below: 0.5, stage: final}}]\n"
    assert {fault.key for fault in faults(body)} == {
        "training_stages[1].epoch_budget",
        "training_stages[1].data_percentage",
    }


@pytest.mark.parametrize(
    ("base_model", "rule", "remedy"),
    [
        ("./models/none", "./models/none does not exist", "Name an existing folder"),
        ("~nobody-here/x", "~nobody-here/x does not exist", "Name an existing folder"),
        ("agnews.yaml", "agnews.yaml is not a folder", "Name an existing folder"),
        ("package:no_such/model", "no Python package 'no_such'", "pip install"),
        ("package:coral/cli", "package 'coral' holds no model in 'cli'", "config.json"),
        (".", ". holds no config.json", "Name the folder that holds config.json."),
        ("''", "the name is empty", "a hub id"),
        ("5", "must be a text, got 5", "Correct the value."),
    ],
)
def test_a_base_model_that_is_not_there_is_named(
    base_model: str, rule: str, remedy: str, faults_in_text: Faults
) -> None:
    fault = only(faults_in_text(f"tasks: [kind]\nbase_model: {base_model}\n"))
    assert (fault.where, fault.key) == ("agnews.yaml:2", "base_model")
    assert rule in fault.rule
    assert remedy in fault.remedy


def test_a_config_needs_a_base_model(faults_in_text: Faults) -> None:
    fault = only(faults_in_text("tasks: [kind]\n"))
    assert (fault.where, fault.key, fault.rule) == ("agnews.yaml:1", "base_model", "must be given.")


FILES: dict[str, tuple[bytes, str, str]] = {
    "an unclosed list": (b"a: 1\nb: [1, 2\n", "agnews.yaml:3", "YAML syntax: expected ',' or ']'"),
    "a colon too many": (b"a: b: c\n", "agnews.yaml:1", "YAML syntax: mapping values are not"),
    "a tab": (b"a:\n\tb: 1\n", "agnews.yaml:2", "YAML syntax: found character '\\t'"),
    "a tag of Python": (
        b"a: !!python/object/apply:os.getcwd []\n",
        "agnews.yaml:1",
        "YAML syntax: could not determine a constructor for the tag",
    ),
    "a date that is none": (b"\na: 2020-13-45\n", "agnews.yaml:2", "YAML syntax: not a value"),
    "a control character": (b"a: 1\nb: \x07\n", "agnews.yaml:2", "YAML syntax: unacceptable"),
    "Latin-1": (b"a: 1\nb: caf\xe9\n", "agnews.yaml:2", "UTF-8 text, got byte 0xe9 at offset 11"),
    "an image": (b"\x89PNG\r\n\x1a\n\x00", "agnews.yaml:1", "UTF-8 text, got byte 0x89"),
    "a database": (b"SQLite format 3\x00", "agnews.yaml:1", "holds binary data"),
    "nothing": (b"", "agnews.yaml:1", "this one is empty"),
    "a list": (b"- a\n- b\n", "agnews.yaml:1", 'a mapping of keys, got ["a", "b"]'),
    "an anchor in itself": (b"a: &x [*x]\n", "agnews.yaml", "at most 60 levels"),
    "deep nesting": (b"a: " + b"[" * 100 + b"]" * 100, "agnews.yaml", "at most 60 levels"),
    "aliases of aliases": (
        b"a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + b"".join(
            b"%c: &%c [%s]\n" % (n + 1, n + 1, b",".join([b"*%c" % n] * 10)) for n in b"abcde"
        ),
        "agnews.yaml",
        "100,000 keys",
    ),
}


@pytest.mark.parametrize(("content", "where", "rule"), FILES.values(), ids=FILES.keys())
def test_a_file_that_is_no_config_is_refused(
    content: bytes, where: str, rule: str, faults_in_text: Faults
) -> None:
    fault = only(faults_in_text(content))
    assert (fault.where, fault.key) == (where, "")
    assert rule in fault.rule
    assert fault.remedy


def test_duplicate_keys_name_both_lines(faults: Faults) -> None:
    found = faults("seed: 1\nevolution:\n  generations: 2\n  generations: 3\nseed: 2\n")
    assert [(fault.where, fault.key, fault.rule) for fault in found] == [
        (
            "agnews.yaml:6",
            "evolution.generations",
            "a key may appear once, it is already on line 5.",
        ),
        ("agnews.yaml:7", "seed", "a key may appear once, it is already on line 3."),
    ]


@pytest.mark.parametrize(("name", "reason"), [("none.yaml", "No such file"), (".", "directory")])
def test_a_file_that_cannot_be_read_is_named(name: str, reason: str) -> None:
    fault = only(faults_of(lambda: load_config(Path(name), REGISTRY)))
    assert fault.where == name
    assert reason in fault.rule
    assert "Name a YAML file" in fault.remedy


def test_every_fault_of_a_file_is_reported_in_the_order_of_the_file(load_text: Load) -> None:
    text = (
        "seed: -1\n"
        "objectives: [f1]\n"
        "training:\n"
        "  lora_r: 0\n"
        "  lora_dropout: 1.0\n"
        "tasks: [kind, knd]\n"
        "evolution: {population_size: 1, selection: best}\n"
        "search_space:\n"
        "  lora_r: {low: 64, high: 8}\n"
        "  warmup: [0.1, 0.2]\n"
        "training_stages:\n"
        "  - {name: a, epoch_budget: 1, data_percentage: 50, survival_rate: 0}\n"
        "  - {name: b, epoch_budget: 2, data_percentage: 100, survival_rate: 1}\n"
        "  - {name: c, epoch_budget: 1, data_percentage: 50, survival_rate: 1}\n"
        "base_model: ./none\n"
    )
    found = faults_of(lambda: load_text(text))
    assert [(fault.where.partition(":")[2], fault.key) for fault in found] == [
        ("1", "seed"),
        ("4", "training.lora_r"),
        ("5", "training.lora_dropout"),
        ("6", "tasks[1]"),
        ("7", "evolution.selection"),
        ("7", "evolution.population_size"),
        ("9", "search_space.lora_r"),
        ("10", "search_space.warmup"),
        ("12", "training_stages[0].survival_rate"),
        ("14", "training_stages[2].epoch_budget"),
        ("14", "training_stages[2].data_percentage"),
        ("15", "base_model"),
    ]


def test_every_invariant_that_breaks_in_one_part_is_reported(faults: Faults) -> None:
    body = "training:\n  adapter:\n    dropout: 1.0\n    layers: top-0\n    target_modules: []\n"
    keys = ["dropout", "layers", "target_modules"]
    assert [fault.key for fault in faults(body)] == [f"training.adapter.{key}" for key in keys]


def test_a_config_error_prints_every_fault_and_its_remedy(load_text: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(f"{HEAD}seed: -1\nevolution: {{generations: 0}}\n")
    assert str(caught.value).count("Correct the value") == 2
    assert "agnews.yaml:3: seed: must be >= 0, got -1." in str(caught.value)
    assert "agnews.yaml:4: evolution.generations: must be > 0, got 0." in str(caught.value)
