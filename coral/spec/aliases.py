"""Names that people who fine-tune already use: those of Axolotl, HF and LLaMA-Factory."""

from __future__ import annotations

PLAN_ALIASES = {
    # Axolotl
    "lora_r": "adapter.rank",
    "lora_dropout": "adapter.dropout",
    "lora_target_modules": "adapter.target_modules",
    "learning_rate": "schedule.learning_rate",
    "lr_scheduler": "schedule.scheduler",
    "warmup_ratio": "schedule.warmup_ratio",
    "warmup_steps": "schedule.warmup_steps",
    "weight_decay": "schedule.weight_decay",
    "max_grad_norm": "schedule.gradient_clip",
    "sequence_len": "encoding.sequence_len",
    "peft_use_dora": "adapter.dora",
    "peft_use_rslora": "adapter.rslora",
    # Hugging Face and LLaMA-Factory
    "r": "adapter.rank",
    "lora_rank": "adapter.rank",
    "target_modules": "adapter.target_modules",
    "lora_target": "adapter.target_modules",
    "lr_scheduler_type": "schedule.scheduler",
    "max_seq_length": "encoding.sequence_len",
    "max_length": "encoding.sequence_len",
    "cutoff_len": "encoding.sequence_len",
    "use_dora": "adapter.dora",
    "use_rslora": "adapter.rslora",
    # Coral's own shorthands
    "batch_size": "schedule.batch_size",
    "task_weights": "tasks.weights",
    "scaling": "adapter.scaling",
    "layers": "adapter.layers",
}
"""Alias to the plan's dotted path: accepted at the top level, in ``training``, ``search_space``."""

ALPHA_NAMES = ("lora_alpha", "alpha")
"""Raw alpha becomes effective scaling, which depends on the rank."""

BATCH_NAMES = ("micro_batch_size", "per_device_train_batch_size")
"""Together with accumulation they make the batch of one optimizer step."""

ACCUMULATION = "gradient_accumulation_steps"
EPOCH_NAMES = ("num_epochs", "num_train_epochs")
BASE_MODEL_NAMES = ("base_model", "model_name_or_path")
TARGET_LINEAR = "lora_target_linear"
LLAMA_FACTORY_TARGET = "lora_target"

TRAINING_SHORTHANDS = (*PLAN_ALIASES, *ALPHA_NAMES, *BATCH_NAMES, ACCUMULATION, TARGET_LINEAR)
"""Everything that may stand in ``training`` or at the top level besides the plan's own parts."""
