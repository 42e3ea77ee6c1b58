"""A LLaMA-Factory config runs as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coral.plan import value_at
from tests.spec.configs import Faults, Load, only
from tests.spec.dialects.configs import DATASET_INFO, LLAMA_FACTORY, options_of, shortened

MINIMAL = """\
model_name_or_path: org/small-llama
stage: sft
finetuning_type: lora
dataset: identity
"""


def describe(**entry: Any) -> None:
    """Describe the data set ``identity`` otherwise."""
    Path("data/dataset_info.json").write_text(json.dumps({"identity": entry}, indent=2))


def test_every_field_of_a_whole_config_is_taken_over(read: Load) -> None:
    spec = read(LLAMA_FACTORY).spec
    expected = {
        "adapter.rank": 8,
        "adapter.scaling": 2.0,
        "adapter.target_modules": "all-linear",
        "schedule.learning_rate": 1e-4,
        "schedule.scheduler": "cosine",
        "schedule.warmup_ratio": 0.1,
        "schedule.batch_size": 8,
        "encoding.sequence_len": 1024,
    }
    assert {path: value_at(spec.training, path) for path in expected} == expected
    assert spec.training_stages[-1].epoch_budget == 3
    execution = spec.execution
    assert (execution.precision, execution.load_in_4bit) == ("bfloat16", True)
    assert (execution.micro_batch_size, execution.trust_remote_code) == (1, True)
    assert (spec.base_model, spec.output_dir) == (
        "org/small-llama",
        "saves/small-llama/lora/sft",
    )


def test_every_described_data_set_becomes_a_task(read: Load) -> None:
    shared = {"sample_packing": True, "validation_share": 0.1, "test_share": 0.1}
    assert [options_of(task) for task in read(LLAMA_FACTORY).spec.tasks] == [
        {
            "name": "identity",
            "type": "sft",
            "path": "data/identity.json",
            "format": "alpaca-chat",
            "max_rows": 1000,
            **shared,
        },
        {
            "name": "answers",
            "type": "sft",
            "path": "org/answers",
            "format": "chat",
            "messages": "turns",
            "subset": "english",
            "max_rows": 1000,
            **shared,
        },
    ]


def test_how_it_was_read_is_told_line_by_line(read: Load) -> None:
    notes = read(LLAMA_FACTORY).notes
    assert notes[0] == (
        "read as a LLaMA-Factory config: stage, finetuning_type and dataset are some of its keys"
    )
    told = "\n".join(notes)
    assert "template llama3: the tokenizer's own chat template is used" in told
    assert "packing: examples that share a sequence do not see each other here" in told
    assert "LLaMA-Factory's defaults: weight_decay 0.0" in told
    [ignored] = [note for note in notes if note.startswith("ignored")]
    assert ignored == (
        "ignored, no part of what is learned: do_train, overwrite_cache, preprocessing_num_workers,"
        " logging_steps, save_steps, plot_loss, overwrite_output_dir, report_to, ddp_timeout,"
        " per_device_eval_batch_size, eval_strategy, eval_steps"
    )


def test_the_defaults_of_llama_factory_hold(read: Load) -> None:
    spec = read(MINIMAL).spec
    expected = {
        "adapter.rank": 8,
        "adapter.scaling": 2.0,
        "schedule.learning_rate": 5e-5,
        "schedule.scheduler": "linear",
        "schedule.warmup_ratio": 0.0,
        "schedule.weight_decay": 0.0,
        "schedule.batch_size": 8,
        "encoding.sequence_len": 2048,
    }
    assert {path: value_at(spec.training, path) for path in expected} == expected
    assert spec.training_stages[-1].epoch_budget == 3


def test_alpha_is_twice_the_rank_unless_it_is_said(read: Load) -> None:
    assert read(MINIMAL + "lora_rank: 4\nuse_rslora: true\n").spec.training.adapter.scaling == 4.0
    assert read(MINIMAL + "lora_alpha: 32\n").spec.training.adapter.scaling == 4.0


def test_data_sets_without_a_description_are_hub_ids(read: Load) -> None:
    text = shortened(MINIMAL, "dataset") + "dataset: org/one,org/two\ndataset_dir: ONLINE\n"
    tasks = read(text).spec.tasks
    assert [task.options["path"] for task in tasks] == ["org/one", "org/two"]
    assert [task.name for task in tasks] == ["one", "two"]


def test_instructions_are_asked_in_the_template_that_is_named(read: Load) -> None:
    for template, form in (("llama3", "alpaca-chat"), ("alpaca", "alpaca")):
        loaded = read(f"{MINIMAL}template: {template}\n")
        assert loaded.spec.tasks[0].options["format"] == form


def test_data_sets_of_one_name_are_told_apart(read: Load) -> None:
    text = shortened(MINIMAL, "dataset") + "dataset: one/data,two/data\ndataset_dir: ONLINE\n"
    assert [task.name for task in read(text).spec.tasks] == ["data", "data_2"]


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("stage: dpo", "stage", "must be sft"),
        ("finetuning_type: full", "finetuning_type", "must be lora"),
        ("quantization_bit: 8", "quantization_bit", "must be 4"),
        ("optim: adafactor", "optim", "must be AdamW"),
        ("use_galore: true", "use_galore", "another optimizer"),
        ("pissa_init: true", "pissa_init", "another start of the adapter"),
        ("additional_target: embed_tokens", "additional_target", "whole modules"),
        ("adapter_name_or_path: saves/earlier", "adapter_name_or_path", "to go on from"),
        ("mask_history: true", "mask_history", "the last turn alone"),
        ("eval_dataset: answers", "eval_dataset", "other data to validate on"),
        ("max_samples: -5", "max_samples", "a whole number > 0"),
        ("train_on_prompt: 3", "train_on_prompt", "true or false"),
        ("fp16: true", "fp16", "16-bit floats"),
        ("val_size: 100", "val_size", "a number of rows, 100"),
        ("dataset: identiti", "dataset", "describes no data set"),
        ("dataset_dir: elsewhere", "dataset_dir", "can't be read"),
    ],
)
def test_what_would_change_the_result_is_a_fault(
    line: str, key: str, words: str, faults: Faults
) -> None:
    name = line.partition(":")[0]
    text = MINIMAL if f"\n{name}:" not in MINIMAL else shortened(MINIMAL, name)
    fault = only(faults(f"{text}{line}\n"))
    assert fault.where == f"config.yml:{len(text.splitlines()) + 1}"
    assert fault.key == key
    assert words in fault.rule
    assert fault.remedy


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        ({}, "file_name", "must be given"),
        ({"file_name": "a.json", "ranking": True}, "ranking", "preferences"),
        ({"file_name": "a.json", "formatting": "xml"}, "formatting", "alpaca, sharegpt"),
        ({"file_name": "a.json", "columns": {"prompt": "q"}}, "columns.prompt", "instruction"),
        ({"file_name": "a.json", "columns": {"images": "i"}}, "columns.images", "more than"),
        ({"file_name": "a.json", "tags": {"user_tag": "customer"}}, "tags.user_tag", "human"),
        ({"ms_hub_url": "org/a", "file_name": "a.json"}, "ms_hub_url", "ModelScope"),
        ({"file_name": "a.json", "splitt": "x"}, "splitt", "unknown key"),
    ],
)
def test_what_a_description_says_wrongly_is_a_fault_of_its_file(
    entry: dict[str, Any], key: str, words: str, faults: Faults, read: Load
) -> None:
    describe(**entry)
    fault = only(faults(MINIMAL))
    assert (fault.where, fault.key) == ("data/dataset_info.json:2", f"identity.{key}")
    assert words in fault.rule


def test_a_description_that_is_no_json_is_one_fault(faults: Faults) -> None:
    Path("data/dataset_info.json").write_text(DATASET_INFO[:-5])
    assert "must be JSON" in only(faults(MINIMAL)).rule


def test_gradient_checkpointing_is_on_unless_it_is_turned_off(read: Load) -> None:
    assert read(MINIMAL).spec.execution.gradient_checkpointing
    off = read(MINIMAL + "disable_gradient_checkpointing: true\n").spec
    assert not off.execution.gradient_checkpointing


def test_precision_is_bfloat16_where_the_config_says_so(read: Load) -> None:
    assert read(MINIMAL + "bf16: false\n").spec.execution.precision == "auto"
    assert read(MINIMAL + "pure_bf16: true\n").spec.execution.precision == "bfloat16"


def test_corals_own_blocks_stand_beside_its_keys(read: Load) -> None:
    spec = read(MINIMAL + "search_space: {lora_rank: {low: 4, high: 16}}\nmode: simulate\n").spec
    assert [gene.path for gene in spec.space.genes] == ["adapter.rank"]
    assert spec.simulated
