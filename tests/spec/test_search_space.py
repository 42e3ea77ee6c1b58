"""Fields that become genes."""

from __future__ import annotations

import pytest

from coral.genome import (
    ChoiceGene,
    Condition,
    FloatGene,
    Gene,
    IntGene,
    SimplexGene,
    SubsetGene,
    flag,
)
from coral.plan import plan_paths
from coral.spec.genes import field_kind
from coral.spec.search_space import DEFAULT_SPACE
from tests.spec.configs import Faults, Load, only

PROGRESSIVE = Condition(path="curriculum.kind", values=("progressive",))

GENES: list[tuple[str, Gene]] = [
    (
        "learning_rate: {low: 1e-4, high: 1e-2, log: true}",
        FloatGene(path="schedule.learning_rate", low=1e-4, high=1e-2, log=True),
    ),
    ("scaling: {low: 1, high: 4}", FloatGene(path="adapter.scaling", low=1.0, high=4.0)),
    (
        "lora_r: {low: 2, high: 32, log: true}",
        IntGene(path="adapter.rank", low=2, high=32, log=True),
    ),
    ("lora_r: {low: 2.0, high: 32.0}", IntGene(path="adapter.rank", low=2, high=32)),
    ("adapter: {rank: {low: 2, high: 32}}", IntGene(path="adapter.rank", low=2, high=32)),
    ("batch_size: [8, 16]", ChoiceGene(path="schedule.batch_size", options=(8, 16))),
    ("micro_batch_size: [8, 16]", ChoiceGene(path="schedule.batch_size", options=(8, 16))),
    ("scaling: [1, 2]", ChoiceGene(path="adapter.scaling", options=(1.0, 2.0))),
    (
        "lr_scheduler: {choices: [linear, cosine]}",
        ChoiceGene(path="schedule.scheduler", options=("linear", "cosine")),
    ),
    (
        "target_modules: [all-linear, [query, value]]",
        ChoiceGene(path="adapter.target_modules", options=("all-linear", ("query", "value"))),
    ),
    (
        "target_modules: {subset: [query, key, value], least: 2}",
        SubsetGene(path="adapter.target_modules", options=("query", "key", "value"), least=2),
    ),
    ("adapter.rslora: flag", flag("adapter.rslora")),
    ("use_dora: [false, true]", flag("adapter.dora")),
    (
        "task_weights: simplex",
        SimplexGene(path="tasks.weights", names=("origin", "kind"), floor=0.1),
    ),
    (
        "task_weights: {floor: 0.2}",
        SimplexGene(path="tasks.weights", names=("origin", "kind"), floor=0.2),
    ),
    (
        "task_weights: {simplex: [kind, origin], floor: 0}",
        SimplexGene(path="tasks.weights", names=("kind", "origin"), floor=0),
    ),
    (
        "lora_r: {choices: [2, 4], when: {use_dora: false}}",
        ChoiceGene(
            path="adapter.rank",
            options=(2, 4),
            when=Condition(path="adapter.dora", values=(False,)),
        ),
    ),
]


@pytest.mark.parametrize(("line", "gene"), GENES, ids=[line for line, _ in GENES])
def test_a_gene_of_every_kind_can_be_written(line: str, gene: Gene, load: Load) -> None:
    space = load(f"search_space:\n  {line}\n").spec.space
    assert space.genes == (gene,)


def test_whole_numbers_for_a_real_field_become_real(load: Load) -> None:
    """Else 1 and 1.0 would be two genomes with two digests."""
    (gene,) = load("search_space: {scaling: [1, 2]}\n").spec.space.genes
    assert isinstance(gene, ChoiceGene)
    assert [type(option) for option in gene.options] == [float, float]


def test_the_space_lies_over_the_fixed_fields(load: Load) -> None:
    spec = load("lora_r: 4\nsearch_space: {batch_size: [8, 16]}\n").spec
    assert spec.space.base == spec.training
    assert spec.space.base.adapter.rank == 4


def test_a_declared_condition_comes_with_the_field(load: Load) -> None:
    body = "search_space: {curriculum.kind: [none, progressive], curriculum.ramp: [0.2, 0.8]}\n"
    genes = {gene.path: gene for gene in load(body).spec.space.genes}
    assert genes["curriculum.kind"].when is None
    assert genes["curriculum.ramp"].when == PROGRESSIVE


def test_a_condition_holds_where_the_field_is_fixed(load: Load) -> None:
    body = "training: {curriculum.kind: progressive}\nsearch_space: {curriculum.ramp: [0.2, 0.8]}\n"
    (gene,) = load(body).spec.space.genes
    assert gene.when == PROGRESSIVE


def test_a_condition_can_be_written(load: Load) -> None:
    body = (
        "search_space:\n"
        "  lr_scheduler: [linear, cosine, constant]\n"
        "  warmup_ratio: {low: 0, high: 0.2, when: {lr_scheduler: [linear, cosine]}}\n"
    )
    genes = {gene.path: gene for gene in load(body).spec.space.genes}
    wanted = Condition(path="schedule.scheduler", values=("linear", "cosine"))
    assert genes["schedule.warmup_ratio"].when == wanted


@pytest.mark.parametrize(
    ("gene", "values", "reachable"),
    [
        ("lora_r: {low: 2, high: 8}", "8", True),
        ("lora_r: {low: 2, high: 8}", "16", False),
        ("lora_r: [2, 8]", "[4, 8]", True),
        ("lora_r: [2, 8]", "4", False),
    ],
)
def test_a_condition_must_be_reachable_for_the_other_gene(
    gene: str, values: str, reachable: bool, load: Load, faults: Faults
) -> None:
    body = f"search_space:\n  {gene}\n  batch_size: {{choices: [8, 16], when: {{r: {values}}}}}\n"
    if reachable:
        load(body)
    else:
        fault = only(faults(body))
        assert fault.key == "search_space.batch_size"
        assert fault.rule.startswith("only has an effect where adapter.rank is ")


def test_raw_alpha_cannot_be_searched(faults: Faults) -> None:
    fault = only(faults("search_space:\n  lora_alpha: {low: 8, high: 64}\n"))
    assert (fault.where, fault.key) == ("agnews.yaml:4", "search_space.lora_alpha")
    assert fault.rule == 'raw alpha can\'t be searched, got {"low": 8, "high": 64}.'
    assert fault.remedy == "Search `scaling` (alpha / r) instead: it keeps apart from the rank."


@pytest.mark.parametrize("body", ["", "search_space:\n"])
def test_a_config_without_a_space_has_the_default_one(body: str, load: Load) -> None:
    space = load(body).spec.space
    assert [gene.path for gene in space.genes] == sorted(DEFAULT_SPACE)


def test_genes_are_in_a_stable_order(load: Load) -> None:
    one = load("search_space: {lora_r: [2, 4], batch_size: [8, 16]}\n").spec.space
    other = load("search_space: {batch_size: [8, 16], lora_r: [2, 4]}\n").spec.space
    assert one == other


def test_every_field_of_the_plan_has_a_kind_of_gene() -> None:
    kinds = {path: field_kind(path) for path in plan_paths()}
    assert set(kinds.values()) == {"float", "int", "flag", "choice", "names", "shares"}
    assert [path for path, kind in kinds.items() if kind == "shares"] == ["tasks.weights"]
    assert kinds["adapter.target_modules"] == "names"
    assert kinds["adapter.layers"] == "choice"
