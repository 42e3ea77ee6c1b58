"""An Axolotl config runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from coral.plan import value_at
from coral.spec import dump_spec, load_resolved
from tests.spec.configs import Faults, Load, only
from tests.spec.dialects.configs import AXOLOTL, REGISTRY, options_of, shortened

MINIMAL = """\
base_model: org/small-llama
adapter: lora
datasets: [{path: org/answers, type: alpaca}]
"""


def test_every_field_of_a_whole_config_is_taken_over(read: Load) -> None:
    spec = read(AXOLOTL).spec
    expected = {
        "adapter.rank": 32,
        "adapter.scaling": 0.5,
        "adapter.dropout": 0.05,
        "adapter.target_modules": "all-linear",
        "schedule.learning_rate": 2e-4,
        "schedule.scheduler": "cosine",
        "schedule.warmup_steps": 10,
        "schedule.weight_decay": 0.0,
        "schedule.batch_size": 8,
        "encoding.sequence_len": 2048,
    }
    assert {path: value_at(spec.training, path) for path in expected} == expected
    assert spec.training_stages[-1].epoch_budget == 4
    assert spec.training_stages[0].epoch_budget == pytest.approx(0.1)
    execution = spec.execution
    assert (execution.precision, execution.load_in_4bit) == ("auto", True)
    assert (execution.gradient_checkpointing, execution.micro_batch_size) == (True, 2)
    assert (spec.base_model, spec.output_dir) == ("org/small-llama", "./outputs/qlora-out")


def test_every_data_set_becomes_a_task(read: Load) -> None:
    shared = {"sample_packing": True, "train_on_inputs": False}
    shared |= {"validation_share": 0.05, "test_share": 0.05}
    assert [options_of(task) for task in read(AXOLOTL).spec.tasks] == [
        {
            "name": "conversations",
            "type": "sft",
            "path": "org/conversations",
            "subset": "english",
            "split": "train",
            "format": "chat",
            "messages": "turns",
            **shared,
        },
        {
            "name": "answers",
            "type": "sft",
            "path": "data/answers.jsonl",
            "format": "alpaca",
            **shared,
        },
    ]


def test_what_coral_has_no_use_for_is_told_once_and_by_name(read: Load) -> None:
    notes = read(AXOLOTL).notes
    assert notes[0] == "read as an Axolotl config: datasets and adapter are some of its keys"
    [told] = [note for note in notes if note.startswith("ignored")]
    assert told == (
        "ignored, no part of what is learned: model_type, tokenizer_type, dataset_prepared_path,"
        " eval_sample_packing, pad_to_sequence_len, wandb_project, logging_steps, flash_attention,"
        " evals_per_epoch, saves_per_epoch, deepspeed"
    )


def test_what_is_carried_out_otherwise_is_told(read: Load) -> None:
    told = "\n".join(read(AXOLOTL).notes)
    assert "optimizer adamw_bnb_8bit: AdamW keeps its moments in 32 bits here" in told
    assert "chat_template llama3: the tokenizer's own chat template is used" in told
    assert "5% of the rows validate" in told
    assert "2 data sets are 2 tasks with equal shares of training" in told
    assert "Axolotl's defaults: max_grad_norm 1.0, seed 42" in told


def test_without_a_search_space_the_surroundings_of_the_config_are_searched(read: Load) -> None:
    loaded = read(AXOLOTL)
    space = {gene.path: gene for gene in loaded.spec.space.genes}
    assert set(space) == {
        "adapter.rank",
        "adapter.scaling",
        "adapter.layers",
        "adapter.dropout",
        "schedule.learning_rate",
        "schedule.batch_size",
        "tasks.weights",
    }
    assert (space["adapter.rank"].low, space["adapter.rank"].high) == (8, 128)
    assert (space["adapter.scaling"].low, space["adapter.scaling"].high) == (0.125, 2.0)
    rates = space["schedule.learning_rate"]
    assert (rates.low, rates.high) == pytest.approx((5e-5, 8e-4))
    assert space["schedule.batch_size"].options == (4, 8, 16)
    assert loaded.spec.space.project(loaded.spec.training)["adapter.rank"] == 32
    assert any(note.startswith("searched, as there is no search_space: lora_r 8 to 128")
               for note in loaded.notes)  # fmt: skip


def test_a_model_on_this_machine_tells_which_layers_to_search(read: Load) -> None:
    Path("model").mkdir()
    Path("model/config.json").write_text('{"num_hidden_layers": 12}')
    [layers] = [
        gene
        for gene in read(AXOLOTL.replace("org/small-llama", "./model")).spec.space.genes
        if gene.path == "adapter.layers"
    ]
    assert layers.options == ("all", "top-6", "top-3")


def test_a_model_of_one_layer_has_no_layers_to_search(read: Load) -> None:
    Path("model").mkdir()
    Path("model/config.json").write_text('{"num_hidden_layers": 1}')
    spec = read(AXOLOTL.replace("org/small-llama", "./model")).spec
    assert "adapter.layers" not in {gene.path for gene in spec.space.genes}


def test_corals_own_blocks_stand_beside_axolotls_keys(read: Load) -> None:
    spec = read(
        AXOLOTL
        + "search_space: {lora_r: {low: 4, high: 16}}\n"
        + "evolution: {population_size: 6}\n"
        + "execution: {workers: 1}\n"
        + "prune: {rules: []}\n"
    ).spec
    assert [gene.path for gene in spec.space.genes] == ["adapter.rank"]
    assert (spec.evolution.population_size, spec.execution.workers) == (6, 1)
    assert (spec.training.adapter.scaling, spec.execution.load_in_4bit) == (0.5, True)


def test_the_defaults_of_axolotl_hold_and_are_told(read: Load) -> None:
    loaded = read(MINIMAL)
    schedule = loaded.spec.training.schedule
    assert (schedule.batch_size, schedule.weight_decay, schedule.warmup_ratio) == (1, 0.0, 0.03)
    assert loaded.spec.training.encoding.sequence_len == 512
    assert loaded.spec.training_stages[-1].epoch_budget == 1
    [told] = [note for note in loaded.notes if note.startswith("Axolotl's defaults")]
    assert "sequence_len 512" in told
    assert "num_epochs 1.0" in told


def test_a_default_gives_way_to_the_same_field_under_another_name(read: Load) -> None:
    spec = read(
        MINIMAL + "max_length: 64\nbatch_size: 32\ntraining: {schedule: {weight_decay: 0.5}}\n"
    ).spec
    assert spec.training.encoding.sequence_len == 64
    assert spec.training.schedule.batch_size == 32
    assert spec.training.schedule.weight_decay == 0.5


def test_a_translated_config_is_stored_in_corals_own_words(read: Load) -> None:
    spec = read(AXOLOTL).spec
    Path("config.yaml").write_text(dump_spec(spec))
    again = load_resolved(Path("config.yaml"), REGISTRY)
    assert again.spec == spec
    assert again.notes == ()


def test_overrides_are_in_the_words_of_the_config(read: Load, faults: Faults) -> None:
    assert read(AXOLOTL, lora_r="16").spec.training.adapter.scaling == 1.0
    assert read(AXOLOTL, **{"datasets.0.name": "french"}).spec.tasks[0].options["subset"] == (
        "french"
    )
    fault = only(faults(AXOLOTL, **{"datasets.0.type": "sharegpt"}))
    assert (fault.where, fault.key) == ("command line", "datasets[0].type")


def test_a_fault_names_the_users_own_line_and_key(faults: Faults) -> None:
    broken = AXOLOTL.replace("micro_batch_size: 2", "micro_batch_size: 0").replace(
        "    field_messages: turns", "    field_messages: [turns]"
    )
    told = {(fault.where, fault.key) for fault in faults(broken + "execution: {workers: 0}\n")}
    lines = broken.splitlines()
    line = lines.index("micro_batch_size: 0") + 1
    assert (f"config.yml:{line}", "micro_batch_size") in told
    assert (f"config.yml:{len(lines) + 1}", "execution.workers") in told


@pytest.mark.parametrize(
    ("lines", "key", "at"),
    [
        ("lora_r: 8\nload_in_4bit: perhaps\n", "load_in_4bit", 5),
        ("lora_r: 8\ngradient_checkpointing: 3\n", "gradient_checkpointing", 5),
        ("lora_r: 8\nval_set_size: 0.9\n", "val_set_size", 5),
    ],
)
def test_a_fault_that_coral_finds_later_names_the_users_own_line_and_key(
    lines: str, key: str, at: int, faults: Faults
) -> None:
    found = faults(MINIMAL + lines)
    assert {(fault.where, fault.key) for fault in found} == {(f"config.yml:{at}", key)}


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("load_in_8bit: true", "load_in_8bit", "8-bit weights"),
        ("fp16: true", "fp16", "16-bit floats"),
        ("optimizer: lion_pytorch", "optimizer", "must be AdamW"),
        ("adam_beta2: 0.95", "adam_beta2", "must be 0.999"),
        ("lora_modules_to_save: [embed_tokens]", "lora_modules_to_save", "whole modules"),
        ("lora_model_dir: ./earlier", "lora_model_dir", "an adapter to go on from"),
        ("lr_scheduler: rex", "lr_scheduler", "'linear', 'cosine'"),
        ("cosine_min_lr_ratio: 0.1", "cosine_min_lr_ratio", "ends above zero"),
        ("max_steps: 100", "max_steps", "a number of steps"),
        ("neftune_noise_alpha: 5", "neftune_noise_alpha", "noise on embeddings"),
        ("rl: dpo", "rl", "reinforcement learning"),
        ("special_tokens: {eos_token: <end>}", "special_tokens.eos_token", "another eos_token"),
        ("peft_layers_to_transform: [1, 3]", "peft_layers_to_transform", "follow each other"),
        ("plugins: [axolotl.integrations.kd.KDPlugin]", "plugins[0]", "does not have"),
        ("val_set_size: 200", "val_set_size", "a number of rows, 200"),
        ("adapter: llama-adapter", "adapter", "must be lora or qlora"),
        ("sample_packing: perhaps", "sample_packing", "must be true or false"),
        ("bf16: 16", "bf16", "must be true, false or auto"),
        ("test_datasets: [{path: other.json}]", "test_datasets[0]", "a split of one"),
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
        ("{type: alpaca}", "path", "must be a text"),
        ("{path: a.json}", "type", "must be given"),
        ("{path: a.json, type: sharegpt}", "type", "alpaca, chat_template, completion"),
        ("{path: a.json, type: alpaca, name: [x]}", "name", "must be a text"),
        ("{path: a.json, type: chat_template, field_messages: 3}", "field_messages", "a text"),
        ("{path: a.json, type: alpaca, shards: 10}", "shards", "a part of the data"),
        ("{path: a.json, type: alpaca, spllit: x}", "spllit", "unknown key"),
        ("{path: a.csv, ds_type: json, type: alpaca}", "ds_type", "the file's ending"),
        ("{path: a.json, type: chat_template, message_field_role: who}", "message_field_role",
         "role or from"),
        ("{path: a.json, type: chat_template, roles: {user: [customer]}}", "roles.user", "human"),
        ("{path: x, data_files: [a.json, b.json], type: alpaca}", "data_files", "one file"),
    ],
)  # fmt: skip
def test_what_a_data_set_says_wrongly_is_a_fault_of_its_line(
    entry: str, key: str, words: str, faults: Faults
) -> None:
    fault = only(faults(f"base_model: org/m\nadapter: lora\ndatasets:\n  - {entry}\n"))
    assert (fault.where, fault.key) == ("config.yml:4", f"datasets[0].{key}")
    assert words in fault.rule


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ("path: json, data_files: a.jsonl", "a.jsonl"),
        ("path: json, data_files: [data/a.jsonl]", "data/a.jsonl"),
        ("path: ./folder, data_files: a.jsonl", "./folder/a.jsonl"),
        ("path: org/data, data_files: a.jsonl", "hf://datasets/org/data/a.jsonl"),
        ("path: org/data, revision: v1, data_files: a.jsonl", "hf://datasets/org/data@v1/a.jsonl"),
        ("path: data/*.jsonl, ds_type: json", "data/*.jsonl"),
    ],
)
def test_data_files_say_where_the_data_lie(entry: str, path: str, read: Load) -> None:
    text = f"base_model: org/m\nadapter: lora\ndatasets: [{{{entry}, type: alpaca}}]\n"
    assert read(text).spec.tasks[0].options["path"] == path


def test_completions_are_read_from_their_column(read: Load) -> None:
    text = MINIMAL.replace("type: alpaca", "type: completion, field: body")
    options = read(text).spec.tasks[0].options
    assert (options["format"], options["text"]) == ("completion", "body")


def test_data_with_splits_of_their_own_validate_on_them(read: Load) -> None:
    text = MINIMAL.replace("type: alpaca", "type: alpaca, split: train")
    loaded = read(text + "test_datasets: [{path: org/answers, split: validation}]\n")
    options = loaded.spec.tasks[0].options
    assert "validation_share" not in options
    assert "split" not in options  # it would hide the others
    assert not any("val_set_size" in note for note in loaded.notes)


def test_a_chat_template_that_is_written_out_goes_to_the_conversations(read: Load) -> None:
    text = MINIMAL.replace("type: alpaca", "type: chat_template")
    written = read(text + "chat_template_jinja: '{{ messages[0].content }}'\n").spec.tasks[0]
    assert written.options["chat_template"] == "{{ messages[0].content }}"
    Path("talk.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    in_file = read(text + "chat_template: jinja\nchat_template_jinja: talk.jinja\n").spec.tasks[0]
    assert in_file.options["chat_template"] == Path("talk.jinja").read_text()
    loaded = read(text + "chat_template: chatml\n")
    assert "<|im_start|>" in loaded.spec.tasks[0].options["chat_template"]
    assert not any("chat template is used" in note for note in loaded.notes)


def test_a_chat_template_that_is_not_there_is_a_fault(faults: Faults) -> None:
    text = MINIMAL.replace("type: alpaca", "type: chat_template")
    fault = only(faults(text + "chat_template_jinja: nowhere.jinja\n"))
    assert fault.key == "chat_template_jinja"


def test_layers_that_follow_each_other_are_a_range(read: Load) -> None:
    spec = read(MINIMAL + "peft_layers_to_transform: [4, 5, 6]\n").spec
    assert spec.training.adapter.layers == "4-6"
    assert "adapter.layers" not in {gene.path for gene in spec.space.genes}


@pytest.mark.parametrize(
    ("lines", "precision"),
    [
        ("bf16: true\n", "bfloat16"),
        ("bf16: auto\n", "auto"),
        ("bf16: false\nfp16: false\n", "float32"),
        ("float32: true\n", "float32"),
        ("bfloat16: true\n", "bfloat16"),
        ("", "auto"),
    ],
)
def test_precision_is_taken_over(lines: str, precision: str, read: Load) -> None:
    assert read(MINIMAL + lines).spec.execution.precision == precision


@pytest.mark.parametrize(
    ("lines", "steps", "ratio"),
    [
        ("warmup_steps: 10", 10, 0.1),
        ("warmup_steps: 0", 0, 0.0),
        ("warmup_steps: 0.05", 0, 0.05),
        ("warmup_ratio: 0.2", 0, 0.2),
    ],
)
def test_warm_up_is_steps_or_a_share(lines: str, steps: int, ratio: float, read: Load) -> None:
    schedule = read(f"{MINIMAL}{lines}\n").spec.training.schedule
    assert (schedule.warmup_steps, schedule.warmup_ratio) == (steps, ratio)


def test_both_ways_to_warm_up_are_one_too_many(faults: Faults) -> None:
    fault = only(faults(MINIMAL + "warmup_steps: 10\nwarmup_ratio: 0.1\n"))
    assert (fault.where, fault.key) == ("config.yml:5", "warmup_ratio")
    assert "warmup_steps (config.yml:4)" in fault.rule


def test_alpha_keeps_its_meaning_while_the_rank_is_searched(read: Load) -> None:
    text = MINIMAL + "lora_r: 16\nlora_alpha: 8\npeft_use_rslora: true\n"
    assert read(text).spec.training.adapter.scaling == 2.0
    searched = read(text + "search_space: {lora_r: {low: 2, high: 32}}\n").spec
    assert searched.training.adapter.scaling == 2.0


def test_alpha_that_is_no_number_is_a_fault_of_its_own_key(faults: Faults) -> None:
    fault = only(faults(MINIMAL + "lora_r: 16\nlora_alpha: much\n"))
    assert (fault.where, fault.key) == ("config.yml:5", "lora_alpha")


def test_qlora_needs_weights_in_four_bits(faults: Faults) -> None:
    fault = only(faults(MINIMAL.replace("adapter: lora", "adapter: qlora")))
    assert fault.key == "load_in_4bit"


def test_without_an_adapter_axolotl_would_train_every_weight(faults: Faults) -> None:
    fault = only(faults(shortened(MINIMAL, "adapter")))
    assert fault.key == "adapter"
    assert "trains every weight" in fault.rule


def test_an_unknown_key_is_a_fault_that_names_the_one_that_is_meant(faults: Faults) -> None:
    fault = only(faults(MINIMAL + "sample_paking: true\n"))
    assert fault.key == "sample_paking"
    assert fault.remedy == "Did you mean 'sample_packing'?"


def test_the_same_said_in_both_words_is_one_too_many(faults: Faults) -> None:
    fault = only(faults(MINIMAL + "execution: {precision: float32}\nbf16: true\n"))
    assert (fault.key, fault.where) == ("bf16", "config.yml:5")
    assert "execution.precision (config.yml:4)" in fault.rule
    assert only(faults(MINIMAL + "tasks: [{name: mine, type: sft, path: x}]\n")).key == "datasets"
