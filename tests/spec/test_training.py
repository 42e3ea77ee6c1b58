"""The fixed fields of the plan, under the names that people already use."""

from __future__ import annotations

from typing import Any

import pytest

from coral.plan import TrainingPlan, value_at
from coral.spec.aliases import PLAN_ALIASES
from tests.spec.configs import Faults, Load, only

SPELLINGS: list[tuple[str, str, Any]] = [
    # Axolotl
    ("lora_r: 8", "adapter.rank", 8),
    ("lora_dropout: 0.1", "adapter.dropout", 0.1),
    ("lora_target_modules: [query, value]", "adapter.target_modules", ("query", "value")),
    ("lora_target_modules: query", "adapter.target_modules", "query"),
    ("lora_target_linear: true", "adapter.target_modules", "all-linear"),
    ("lora_target_linear: false", "adapter.target_modules", "all-linear"),
    ("learning_rate: 2e-4", "schedule.learning_rate", 2e-4),
    ("learning_rate: 2.0e-4", "schedule.learning_rate", 2e-4),
    ("learning_rate: 1", "schedule.learning_rate", 1.0),
    ("lr_scheduler: linear", "schedule.scheduler", "linear"),
    ("warmup_ratio: 0.05", "schedule.warmup_ratio", 0.05),
    ("warmup_steps: 10", "schedule.warmup_steps", 10),
    ("weight_decay: 0", "schedule.weight_decay", 0.0),
    ("max_grad_norm: 0.5", "schedule.gradient_clip", 0.5),
    ("sequence_len: 128", "encoding.sequence_len", 128),
    ("peft_use_dora: true", "adapter.dora", True),
    ("peft_use_rslora: true", "adapter.rslora", True),
    ("micro_batch_size: 4", "schedule.batch_size", 4),
    # Hugging Face
    ("r: 8", "adapter.rank", 8),
    ("target_modules: [query]", "adapter.target_modules", ("query",)),
    ("lr_scheduler_type: constant_with_warmup", "schedule.scheduler", "constant_with_warmup"),
    ("use_dora: true", "adapter.dora", True),
    ("use_rslora: true", "adapter.rslora", True),
    ("max_length: 128", "encoding.sequence_len", 128),
    ("max_seq_length: 128", "encoding.sequence_len", 128),
    ("per_device_train_batch_size: 4", "schedule.batch_size", 4),
    # LLaMA-Factory
    ("lora_rank: 8", "adapter.rank", 8),
    ("lora_target: all", "adapter.target_modules", "all-linear"),
    ("lora_target: query,value", "adapter.target_modules", ("query", "value")),
    ("lora_target: 'query, value'", "adapter.target_modules", ("query", "value")),
    ("cutoff_len: 128", "encoding.sequence_len", 128),
    # Coral's own
    ("scaling: 0.5", "adapter.scaling", 0.5),
    ("layers: top-2", "adapter.layers", "top-2"),
    ("batch_size: 4", "schedule.batch_size", 4),
    ("task_weights: {origin: 0.25, kind: 0.75}", "tasks.weights", {"origin": 0.25, "kind": 0.75}),
]


@pytest.mark.parametrize(("line", "path", "value"), SPELLINGS, ids=[s[0] for s in SPELLINGS])
def test_a_known_name_sets_the_field_at_the_top_and_in_training(
    line: str, path: str, value: Any, load: Load
) -> None:
    for body in (f"{line}\n", f"training:\n  {line}\n"):
        found = value_at(load(body).spec.training, path)
        assert found == value
        assert type(found) is type(value)


def test_every_alias_is_covered_above() -> None:
    assert set(PLAN_ALIASES) <= {line.partition(":")[0] for line, _, _ in SPELLINGS}


def test_a_field_is_set_by_part_or_by_dotted_name(load: Load) -> None:
    parts = load("training:\n  adapter: {rank: 8}\n  schedule:\n    batch_size: 4\n").spec
    dotted = load("training: {adapter.rank: 8, schedule.batch_size: 4}\n").spec
    assert parts.training == dotted.training
    assert parts.training.adapter.rank == 8


def test_a_config_without_training_has_the_default_plan(load: Load) -> None:
    assert load().spec.training == TrainingPlan()
    assert load("training:\n").spec.training == TrainingPlan()


@pytest.mark.parametrize(
    ("body", "scaling"),
    [
        ("lora_alpha: 32\n", 2.0),  # at the default rank, 16
        ("lora_alpha: 32\nlora_r: 8\n", 4.0),
        ("training: {lora_alpha: 32}\nlora_r: 8\n", 4.0),
        ("training: {alpha: 16, adapter: {rank: 4}}\n", 4.0),
        ("lora_alpha: 32\nlora_r: 16\npeft_use_rslora: true\n", 8.0),  # 32 / sqrt(16)
        ("training: {lora_alpha: 32, r: 16, adapter: {rslora: true}}\n", 8.0),
        ("lora_alpha: 32\nsearch_space: {scaling: [1.0, 2.0]}\n", 2.0),
        ("lora_alpha: 1e1\nlora_r: 4\n", 2.5),
    ],
)
def test_alpha_becomes_the_scaling_that_it_means_at_the_rank(
    body: str, scaling: float, load: Load
) -> None:
    adapter = load(body).spec.training.adapter
    assert adapter.scaling == scaling


def test_alpha_survives_where_the_default_space_searches_the_rank(load: Load) -> None:
    """Axolotl's keys alone are the default recipe; Coral's space is searched around it."""
    spec = load("lora_r: 8\nlora_alpha: 16\n").spec
    assert spec.training.adapter.alpha == 16
    assert "adapter.rank" in [gene.path for gene in spec.space.genes]


@pytest.mark.parametrize("rank", ["lora_r", "r", "adapter.rank", "adapter: {rank"])
def test_alpha_with_a_searched_rank_is_a_fault(rank: str, faults: Faults) -> None:
    end = "}" if "{" in rank else ""
    found = only(faults(f"training:\n  lora_alpha: 32\nsearch_space: {{{rank}: [4, 8]{end}}}\n"))
    assert (found.where, found.key) == ("agnews.yaml:4", "training.lora_alpha")
    assert found.rule == "alpha has no one meaning while the rank is searched, got 32."
    assert found.remedy == "Set `scaling` (alpha / r) instead: it stays the same at every rank."


@pytest.mark.parametrize("alpha", ["0", "-1", ".nan", ".inf", "x", "true", "[1]"])
def test_alpha_must_be_a_positive_number(alpha: str, faults: Faults) -> None:
    found = only(faults(f"lora_alpha: {alpha}\n"))
    assert found.rule.startswith("must be a number > 0, got ")


def test_a_fault_elsewhere_does_not_hide_one_of_alpha(faults: Faults) -> None:
    assert [fault.key for fault in faults("lora_r: 0\nlora_alpha: 0\n")] == ["lora_r", "lora_alpha"]


def test_micro_batches_times_accumulation_is_the_batch_of_a_step(load: Load) -> None:
    for names in (
        ("micro_batch_size", "gradient_accumulation_steps"),
        ("per_device_train_batch_size", "gradient_accumulation_steps"),
    ):
        spec = load(f"{names[0]}: 4\n{names[1]}: 8\n").spec
        assert spec.training.schedule.batch_size == 32


def test_accumulation_alone_is_a_fault(faults: Faults) -> None:
    fault = only(faults("gradient_accumulation_steps: 8\n"))
    assert fault.rule == "needs micro_batch_size beside it, got 8 alone."
    assert "batch_size" in fault.remedy


@pytest.mark.parametrize("size", ["0", "2.5", "x"])
def test_accumulation_must_be_a_positive_whole_number(size: str, faults: Faults) -> None:
    fault = only(faults(f"micro_batch_size: 4\ngradient_accumulation_steps: {size}\n"))
    assert fault.key == "gradient_accumulation_steps"


@pytest.mark.parametrize(
    ("body", "key", "rule"),
    [
        ("lora_r: 8\ntraining: {r: 8}\n", "training.r", "says the same as lora_r (agnews.yaml:3)."),
        (
            "training:\n  r: 8\n  adapter:\n    rank: 8\n",
            "training.adapter.rank",
            "says the same as training.r (agnews.yaml:4).",
        ),
        (
            "batch_size: 8\nmicro_batch_size: 4\n",
            "micro_batch_size",
            "says the same as batch_size (agnews.yaml:3).",
        ),
        (
            "micro_batch_size: 8\nper_device_train_batch_size: 4\n",
            "per_device_train_batch_size",
            "says the same as micro_batch_size (agnews.yaml:3).",
        ),
        (
            "lora_target_modules: [query]\nlora_target_linear: true\n",
            "lora_target_linear",
            "says the same as lora_target_modules (agnews.yaml:3).",
        ),
        (
            "scaling: 2\nlora_alpha: 32\n",
            "lora_alpha",
            "says the same as scaling (alpha / r), got 32.",
        ),
        (
            "alpha: 16\nlora_alpha: 32\n",
            "lora_alpha",
            "says the same as alpha (agnews.yaml:3).",
        ),
        (
            "model_name_or_path: org/other\n",
            "model_name_or_path",
            "says the same as base_model (agnews.yaml:1).",
        ),
        (
            "num_epochs: 3\nnum_train_epochs: 3\n",
            "num_train_epochs",
            "says the same as num_epochs (agnews.yaml:3).",
        ),
        (
            "search_space: {lora_r: [4, 8], adapter: {rank: [2, 4]}}\n",
            "search_space.adapter.rank",
            "says the same as search_space.lora_r (agnews.yaml:3).",
        ),
    ],
)
def test_the_same_thing_said_twice_is_a_fault(
    body: str, key: str, rule: str, faults: Faults
) -> None:
    fault = only(faults(body))
    assert (fault.key, fault.rule) == (key, rule)
    assert fault.remedy == "Remove one of the two."


@pytest.mark.parametrize("name", ["base_model", "model_name_or_path"])
def test_the_base_model_has_two_names(name: str, load_text: Load) -> None:
    assert load_text(f"{name}: org/encoder\ntasks: [kind]\n").spec.base_model == "org/encoder"


def test_an_axolotl_config_reads_as_it_is(load: Load) -> None:
    spec = load(
        "lora_r: 32\nlora_alpha: 16\nlora_dropout: 0.05\nlora_target_linear: true\n"
        "sequence_len: 256\nmicro_batch_size: 2\ngradient_accumulation_steps: 4\n"
        "num_epochs: 4\nlr_scheduler: cosine\nlearning_rate: 2e-4\nwarmup_ratio: 0.1\n"
        "weight_decay: 0.0\noutput_dir: ./outputs/lora\nseed: 42\n"
    ).spec
    adapter, schedule = spec.training.adapter, spec.training.schedule
    assert (adapter.rank, adapter.alpha, adapter.dropout) == (32, 16, 0.05)
    assert (schedule.batch_size, schedule.learning_rate) == (8, 2e-4)
    assert spec.training.encoding.sequence_len == 256
    assert spec.training_stages[-1].epoch_budget == 4
    assert (spec.output_dir, spec.seed) == ("./outputs/lora", 42)


def test_a_number_in_quotes_stays_a_text(load: Load, faults: Faults) -> None:
    assert load("output_dir: '1e5'\n").spec.output_dir == "1e5"
    assert 'got "2e-4"' in only(faults("learning_rate: '2e-4'\n")).rule


def test_warm_up_in_steps_leaves_no_share_to_search(load: Load, faults: Faults) -> None:
    genes = {gene.path for gene in load("warmup_steps: 10\n").spec.space.genes}
    assert "schedule.warmup_ratio" not in genes
    fault = only(faults("warmup_steps: 10\nsearch_space: {warmup_ratio: {low: 0.0, high: 0.2}}\n"))
    assert fault.key == "search_space.warmup_ratio"
    assert "schedule.warmup_steps is 0, got 10" in fault.rule
