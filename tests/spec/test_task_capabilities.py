"""What tasks bring to a config: genes, proxies, and the profile of a simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coral.genome import ChoiceGene, FloatGene
from coral.ports import Proxy
from coral.spec import LoadedConfig, load_config
from coral.spec.search_space import DEFAULT_SPACE
from coral.tasks.registry import Plugin, Registry
from tests.spec.configs import NamedTask, faults_of, only

RATES = {"low": 1e-3, "high": 1e-2, "log": True}


def bringing(name: str, **brought: Any) -> NamedTask:
    task = NamedTask(name)
    for capability, value in brought.items():
        setattr(task, capability, value)
    return task


def loaded(folder: Path, body: str, *tasks: NamedTask, **overrides: str) -> LoadedConfig:
    def factory_of(task: NamedTask) -> Any:
        return lambda: task

    factories = {task.name: factory_of(task) for task in tasks}
    registry = Registry(plugins=(Plugin(name="test", origin="here", tasks=factories),))
    names = ", ".join(factories)
    path = folder / "config.yaml"
    path.write_text(f"base_model: org/encoder\ntasks: [{names}]\n{body}")
    return load_config(path, registry, overrides)


def genes_of(config: LoadedConfig) -> dict[str, Any]:
    return {gene.path: gene for gene in config.spec.space.genes}


def margin(labels: Any, predictions: Any) -> float:
    return float(predictions.max(axis=1).mean())


def test_without_a_search_space_the_genes_of_the_task_join_the_default_ones(tmp_path: Path) -> None:
    brought = {"learning_rate": RATES, "curriculum.kind": ["none", "progressive"]}
    genes = genes_of(loaded(tmp_path, "", bringing("a", genes=brought)))
    assert set(genes) == {*DEFAULT_SPACE, "curriculum.kind"}
    rate = genes["schedule.learning_rate"]
    assert isinstance(rate, FloatGene)
    assert (rate.low, rate.high) == (1e-3, 1e-2)


def test_a_search_space_takes_genes_over_only_where_it_says_so(tmp_path: Path) -> None:
    task = bringing("a", genes={"learning_rate": RATES})
    alone = loaded(tmp_path, "search_space: {lora_r: [2, 4]}\n", task)
    assert set(genes_of(alone)) == {"adapter.rank"}
    both = loaded(tmp_path, "search_space: {lora_r: [2, 4], task_genes: true}\n", task)
    assert set(genes_of(both)) == {"adapter.rank", "schedule.learning_rate"}
    theirs = loaded(tmp_path, "search_space: {task_genes: true}\n", task)
    assert set(genes_of(theirs)) == {"schedule.learning_rate"}


def test_the_own_entry_of_a_config_goes_before_that_of_a_task(tmp_path: Path) -> None:
    task = bringing("a", genes={"learning_rate": RATES, "schedule.batch_size": [4, 8]})
    body = "search_space: {task_genes: true, lr: [1e-3, 2e-3], batch_size: [2, 16]}\n"
    body = body.replace("lr:", "learning_rate:")
    genes = genes_of(loaded(tmp_path, body, task))
    assert isinstance(genes["schedule.learning_rate"], ChoiceGene)
    assert genes["schedule.batch_size"].options == (2, 16)


def test_a_malformed_gene_of_a_task_names_the_task_and_its_line(tmp_path: Path) -> None:
    task = bringing("a", genes={"lora_r": {"low": 8, "high": 2}})
    fault = only(faults_of(lambda: loaded(tmp_path, "", task)))
    assert fault.where.endswith("config.yaml:2")
    assert fault.rule.startswith("task 'a' brings the gene lora_r: low <= high must hold")
    assert "correct the task's plugin" in fault.remedy
    odd = bringing("a", genes={"lora_q": [1, 2]})
    assert "no field of the plan" in only(faults_of(lambda: loaded(tmp_path, "", odd))).rule


def test_two_tasks_may_bring_one_gene_alike_and_not_differently(tmp_path: Path) -> None:
    a, b = (bringing(name, genes={"learning_rate": RATES}) for name in "ab")
    assert "schedule.learning_rate" in genes_of(loaded(tmp_path, "", a, b))
    other = bringing("b", genes={"learning_rate": {**RATES, "high": 0.1}})
    fault = only(faults_of(lambda: loaded(tmp_path, "", a, other)))
    assert "says something else than task 'a'" in fault.rule
    settled = "search_space: {task_genes: true, learning_rate: [1e-3, 1e-2]}\n"
    assert genes_of(loaded(tmp_path, settled, a, other))


def test_the_switch_for_the_genes_of_tasks_is_true_or_false(tmp_path: Path) -> None:
    body = "search_space: {lora_r: [2, 4], task_genes: some}\n"
    fault = only(faults_of(lambda: loaded(tmp_path, body, bringing("a"))))
    assert (fault.key, fault.rule) == (
        "search_space.task_genes",
        'must be true or false, got "some".',
    )


def test_a_prune_rule_may_name_the_proxy_of_a_task_at_its_stage(tmp_path: Path) -> None:
    task = bringing("a", proxies={"margin": Proxy(score=margin, stage=1)})
    body = (
        "prune: [{metric: a.margin, below: 0.2}, {metric: margin, below: 1, stage: S1_shakeout}]\n"
    )
    rules = loaded(tmp_path, body, task).spec.prune.rules
    assert [rule.metric for rule in rules] == ["a.margin", "margin"]


@pytest.mark.parametrize(
    ("rule", "stage", "told"),
    [
        ("{metric: margin, below: 1, stage: S0_sanity}", 1, "is computed at S1_shakeout alone"),
        ("{metric: margin, below: 1}", 3, "serves stage 3, counted from 0; 4 stages are here"),
        ("{metric: marginal, below: 1}", 1, "neither a proxy nor a metric"),
    ],
)
def test_a_prune_rule_that_could_never_see_its_proxy_is_refused(
    tmp_path: Path, rule: str, stage: int, told: str
) -> None:
    task = bringing("a", proxies={"margin": Proxy(score=margin, stage=stage)})
    assert told in only(faults_of(lambda: loaded(tmp_path, f"prune: [{rule}]\n", task))).rule


def test_a_proxy_is_no_objective(tmp_path: Path) -> None:
    task = bringing("a", proxies={"margin": Proxy(score=margin)})
    fault = only(faults_of(lambda: loaded(tmp_path, "objectives: [margin]\n", task)))
    assert "no task of this run gives it" in fault.rule


def test_a_simulation_uses_the_profile_of_the_task_unless_the_config_names_one(
    tmp_path: Path,
) -> None:
    task = bringing("a", profile="theirs")
    assert loaded(tmp_path, "", task).spec.simulation.profile == "theirs"
    body = "simulation: {profile: mine}\n"
    assert loaded(tmp_path, body, task).spec.simulation.profile == "mine"
    assert loaded(tmp_path, "", bringing("a")).spec.simulation.profile == "minilm-docstrings"


def test_tasks_that_ask_for_different_profiles_need_one_named_where_it_counts(
    tmp_path: Path,
) -> None:
    tasks = bringing("a", profile="one"), bringing("b", profile="two")
    assert loaded(tmp_path, "", *tasks).spec.simulation.profile == "minilm-docstrings"
    fault = only(faults_of(lambda: loaded(tmp_path, "", *tasks, mode="simulate")))
    assert (fault.key, fault.remedy) == ("simulation.profile", "Name one of them.")
