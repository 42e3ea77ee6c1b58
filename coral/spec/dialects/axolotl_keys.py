"""The keys of Axolotl's configs for LoRA, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping

from coral.spec.dialects.dialect import Refusal

FORMATS = {"alpaca": "alpaca", "chat_template": "chat", "completion": "completion"}
"""A data set's ``type``, and the format of Coral's task that reads it."""
_PLACE = {"split": "split", "name": "subset", "revision": "revision"}
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "alpaca": _PLACE,
    "chat": {**_PLACE, "field_messages": "messages"},
    "completion": {**_PLACE, "field": "text"},
}
"""Texts that a data set says of itself, and the task's options, by its format."""
ENDINGS: Mapping[str, tuple[str, ...]] = {
    "json": (".json", ".jsonl", ".ndjson"),
    "csv": (".csv",),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
    "text": (".txt",),
}
"""``ds_type``, and how the files end that it stands for."""
ROLES = {
    "user": ["user", "human"],
    "assistant": ["assistant", "gpt"],
    "system": ["system"],
}
"""Whom the names in a conversation stand for; a config may say a part of it."""

MAPPED = {
    "adapter": "`lora` or `qlora`",
    "load_in_4bit": "`execution.load_in_4bit`",
    "bf16": "`execution.precision`: true is `bfloat16`, `auto` is `auto`, false is `float32`",
    "bfloat16": "as `bf16`",
    "float32": "`execution.precision: float32`",
    "gradient_checkpointing": "`execution.gradient_checkpointing`, wherever it is kept",
    "trust_remote_code": "`execution.trust_remote_code`",
    "optimizer": "AdamW in any form; others are an error",
    "adam_beta1": "0.9, or an error",
    "adam_beta2": "0.999, or an error",
    "adam_epsilon": "1e-8, or an error",
    "peft_layers_to_transform": "`layers`, where the numbers follow each other",
    "datasets": "`tasks` of `type: sft`, one a data set",
    "test_datasets": "nothing, where it names a split that the data set has of its own",
    "val_set_size": "`validation_share` of every task, and its `test_share`",
    "train_on_inputs": "`train_on_inputs` of every task",
    "sample_packing": "`sample_packing` of every task",
    "chat_template": "`chatml` is `chat_template`; of other names, the tokenizer's own template",
    "chat_template_jinja": "`chat_template` of every task: a template, or its file",
    "special_tokens": "`pad_token` alone, which nothing is learned from",
}
IGNORED = {
    "names that the model itself tells": (
        "model_type", "tokenizer_type", "tokenizer_use_fast", "tokenizer_legacy",
        "is_falcon_derived_model", "is_llama_derived_model", "is_mistral_derived_model",
        "is_qwen_derived_model", "lora_fan_in_fan_out", "strict",
    ),
    "logging and experiment tracking": (
        "wandb_*", "use_wandb", "mlflow_*", "use_mlflow", "comet_*", "use_comet", "swanlab_*",
        "use_swanlab", "trackio_*", "use_trackio", "use_otel_metrics", "otel_*", "use_tensorboard",
        "logging_steps", "logging_dir", "report_to", "run_name", "include_tokens_per_second",
        "include_tkps", "profiler_steps", "profiler_steps_start", "debug", "gradio_*",
        "loss_watchdog_threshold", "loss_watchdog_patience",
    ),
    "when to evaluate and to save": (
        "eval_steps", "evals_per_epoch", "eval_strategy", "evaluation_strategy", "eval_batch_size",
        "eval_table_size", "eval_max_new_tokens", "eval_sample_packing", "do_causal_lm_eval",
        "eval_causal_lm_metrics", "do_bench_eval", "bench_dataset", "bench_split", "save_steps",
        "saves_per_epoch", "save_strategy", "save_total_limit", "save_only_model",
        "save_safetensors", "save_first_step", "auto_resume_from_checkpoints",
        "metric_for_best_model", "greater_is_better", "hub_model_id", "hub_strategy",
        "hub_revision", "push_dataset_to_hub", "push_to_hub", "hf_use_auth_token", "merge_lora",
        "merge_method",
    ),
    "how data are prepared and loaded": (
        "dataset_prepared_path", "dataset_processes", "dataset_num_proc", "dataset_keep_in_memory",
        "dataset_shard_num_writes", "num_dataset_shards_to_save", "preprocess_*", "dataloader_*",
        "remove_unused_columns", "skip_prepare_dataset", "pad_to_sequence_len", "group_by_length",
        "sample_packing_group_size", "sample_packing_bin_size", "sample_packing_eff_est",
        "sample_packing_sequentially", "multipack_real_batches", "total_num_tokens",
        "total_supervised_tokens",
    ),
    "where it runs": (
        "deepspeed", "fsdp", "fsdp_*", "ddp", "ddp_*", "device", "device_map", "local_rank",
        "world_size", "accelerator_config", "max_memory", "gpu_memory_limit", "low_cpu_mem_usage",
        "lora_on_cpu", "sequence_parallel_degree", "context_parallel_size", "tensor_parallel_size",
        "dp_shard_size", "dp_replicate_size", "heads_k_stride", "use_ray", "ray_*",
        "resources_per_worker", "qlora_sharded_model_loading", "gc_steps",
        "activation_offloading", "layer_offloading", "gradient_checkpointing_kwargs",
    ),
    "kernels and their rounding": (
        "flash_attention", "flash_attn_*", "flash_optimum", "xformers_attention", "sdp_attention",
        "flex_attention", "sage_attention", "eager_attention", "attn_implementation",
        "attn_needs_dtype_cast", "liger_*", "cut_cross_entropy", "unsloth_*", "lora_mlp_kernel",
        "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel", "torch_compile",
        "torch_compile_*", "tf32", "batch_flattening", "chunked_cross_entropy", "use_kernels",
        "plugins",
    ),
}  # fmt: skip
"""What is of no use to Coral."""
FOREIGN_PLUGINS = ("liger", "cut_cross_entropy", "kernels")
"""Parts of the names of Axolotl's plugins that change how, and not what, is computed."""

_STARTS_FROM_BASE = "Remove it: every genome starts from the base model, or from its parents."
_LADDER = "Remove it; training_stages say how long training is, and when a genome is given up."
_FILE = "Do it in the data themselves, and remove the key."
REFUSED = {
    "load_in_8bit": Refusal("8-bit weights", "Set load_in_4bit: true, or neither."),
    "fp16": Refusal("16-bit floats without scaling", "Set bf16: auto; it covers both."),
    "float16": Refusal("16-bit floats without scaling", "Set bf16: auto; it covers both."),
    "fp8": Refusal("8-bit floats", "Set bf16: auto."),
    "gptq": Refusal("GPTQ weights", "Name the model that they were made of, and load_in_4bit."),
    "bnb_config_kwargs": Refusal("another kind of 4-bit weights", "Remove it; Coral takes NF4."),
    "peft": Refusal("another adapter or kind of quantization"),
    "lora_model_dir": Refusal("an adapter to go on from", _STARTS_FROM_BASE),
    "resume_from_checkpoint": Refusal("a checkpoint to go on from", _STARTS_FROM_BASE),
    "lora_modules_to_save": Refusal(
        "whole modules trained beside the adapter",
        "Remove it; without new tokens no embedding has to be trained.",
    ),
    "lora_target_parameters": Refusal("adapters on parameters", "Name modules instead."),
    "peft_layers_pattern": Refusal("layers by a pattern", "Remove it; Coral finds the layers."),
    "peft_layer_replication": Refusal("copied layers"),
    "peft_init_lora_weights": Refusal(
        "another start of the adapter", harmless=(False, True)
    ),
    "peft_trainable_token_indices": Refusal("trained tokens"),
    "loraplus_lr_ratio": Refusal("another learning rate for half of the adapter"),
    "relora": Refusal("ReLoRA"),
    "relora_steps": Refusal("ReLoRA"),
    "unfrozen_parameters": Refusal("trained base weights"),
    "embedding_lr": Refusal("trained embeddings"),
    "embedding_lr_scale": Refusal("trained embeddings"),
    "lr_groups": Refusal("learning rates by module"),
    "lr_scheduler_kwargs": Refusal("a schedule with arguments of its own"),
    "lr_quadratic_warmup": Refusal("a quadratic warm-up"),
    "cosine_min_lr_ratio": Refusal("a cosine that ends above zero"),
    "cosine_constant_lr_ratio": Refusal("a cosine that stops early"),
    "optim_args": Refusal("arguments of the optimizer"),
    "optim_target_modules": Refusal("an optimizer for some modules"),
    "auto_find_batch_size": Refusal(
        "a batch size that depends on memory",
        "Remove it; execution.micro_batch_size bounds memory and keeps the batch.",
    ),
    "max_steps": Refusal("an end after a number of steps", _LADDER, (False, -1)),
    "early_stopping_patience": Refusal("an early end", _LADDER),
    "load_best_model_at_end": Refusal("the best checkpoint of a run", _LADDER),
    "neftune_noise_alpha": Refusal("noise on embeddings"),
    "rl": Refusal("reinforcement learning"),
    "trl": Refusal("reinforcement learning"),
    "reward_model": Refusal("a reward model"),
    "process_reward_model": Refusal("a reward model"),
    "num_labels": Refusal("a classifier", "Name a task of `type: text-classification`."),
    "pretraining_dataset": Refusal("a stream of texts", "Name it in datasets, type completion."),
    "streaming": Refusal("a stream of data"),
    "shuffle_merged_datasets": Refusal("data in the order of the files", harmless=(True,)),
    "curriculum_sampling": Refusal("data in order", "Set training.curriculum instead."),
    "dataset_exact_deduplication": Refusal("data without duplicates", _FILE),
    "dataset_shard_num": Refusal("a part of the data", _FILE),
    "dataset_shard_idx": Refusal("a part of the data", _FILE),
    "min_sample_len": Refusal("data without short texts", _FILE),
    "excess_length_strategy": Refusal(
        "long texts to be left out or to fail", _FILE, ("truncate",)
    ),
    "default_system_message": Refusal("a system message", _FILE),
    "tokens": Refusal("new tokens"),
    "added_tokens_overrides": Refusal("changed tokens"),
    "resize_token_embeddings_to_32x": Refusal("more embeddings"),
    "shrink_embeddings": Refusal("fewer embeddings"),
    "fix_untrained_tokens": Refusal("changed embeddings"),
    "mean_resizing_embeddings": Refusal("changed embeddings"),
    "tokenizer_config": Refusal("another tokenizer", "Save it with the model, and name that."),
    "base_model_config": Refusal("another model config", "Save it with the model, and name that."),
    "revision_of_model": Refusal("a revision of the model", "Download it, and name the folder."),
    "overrides_of_model_config": Refusal("a changed model"),
    "overrides_of_model_kwargs": Refusal("a changed model"),
    "rope_scaling": Refusal("other positions"),
    "use_pose": Refusal("other positions"),
    "s2_attention": Refusal("another attention"),
    "noisy_embedding_alpha": Refusal("noise on embeddings"),
}  # fmt: skip
DATASET_REFUSED = {
    "conversation": Refusal("a FastChat template", "Write type: chat_template instead."),
    "input_transform": Refusal("changed texts", _FILE),
    "shards": Refusal("a part of the data", _FILE),
    "shards_idx": Refusal("a part of the data", _FILE),
    "skip": Refusal("a part of the data", _FILE),
    "input_format": Refusal("a prompt of its own", "Write type: chat_template instead."),
    "field_human": Refusal("other columns", _FILE),
    "field_model": Refusal("other columns", _FILE),
    "message_field_training": Refusal("messages chosen one by one", _FILE),
    "message_field_training_detail": Refusal("parts of messages", _FILE),
    "logprobs_field": Refusal("distillation"),
    "temperature": Refusal("distillation"),
    "roles_to_train": Refusal(
        "other turns to be learned",
        "Remove it, or set train_on_inputs for all of them.",
        (["assistant"], ["gpt"], ["assistant", "gpt"]),
    ),
    "train_on_eos": Refusal("other ends of turns to be learned", harmless=("turn",)),
    "train_on_eot": Refusal("other ends of turns to be learned", harmless=("turn",)),
    "drop_system_message": Refusal("conversations without their system message", _FILE),
    "field_system": Refusal("other columns", _FILE, ("system",)),
    "field_instruction": Refusal("other columns", _FILE, ("instruction",)),
    "field_input": Refusal("other columns", _FILE, ("input",)),
    "field_output": Refusal("other columns", _FILE, ("output",)),
    "field_tools": Refusal("tools", _FILE, ("tools",)),
    "trust_remote_code": Refusal("code that comes with data", "Save the data as files."),
}  # fmt: skip
DATASET_MAPPED = {
    "path": "`path`",
    "name": "`subset`",
    "split": "`split`",
    "revision": "`revision`",
    "type": "`format`: alpaca; chat_template is `chat`; completion",
    "preprocess_shards": "nothing: it is how data are prepared",
    "ds_type": "nothing: the ending of a file tells its kind, and must agree",
    "data_files": "`path`: one file, folder or pattern; of a hub id, a file in it",
    "field_messages": "`messages`",
    "field": "`text`",
    "chat_template": "as at the top level",
    "chat_template_jinja": "as at the top level",
    "message_field_role": "`role`, or `from`",
    "message_field_content": "`content`, or `value`",
    "message_property_mappings": "role and content, by the names above",
    "roles": "the usual names: user or human, assistant or gpt, system",
}
