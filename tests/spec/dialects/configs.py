"""Configs of other trainers as their users write them."""

from __future__ import annotations

from typing import Any

from coral.tasks import discover

AXOLOTL = """\
base_model: org/small-llama
# hub_model_id: me/finetuned
model_type: LlamaForCausalLM
tokenizer_type: AutoTokenizer

load_in_8bit: false
load_in_4bit: true
strict: false

chat_template: llama3
datasets:
  - path: org/conversations
    name: english
    type: chat_template
    split: train
    field_messages: turns
    message_field_role: role
    message_field_content: content
    roles:
      user: [user]
      assistant: [assistant]
  - path: data/answers.jsonl
    ds_type: json
    type: alpaca
dataset_prepared_path: last_run_prepared
val_set_size: 0.05
output_dir: ./outputs/qlora-out

adapter: qlora
lora_model_dir:
sequence_len: 2048
sample_packing: true
eval_sample_packing: true
pad_to_sequence_len: true

lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_modules:
lora_target_linear: true
lora_fan_in_fan_out:

wandb_project: answers
wandb_entity:
wandb_watch:

gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0002

train_on_inputs: false
group_by_length: false
bf16: auto
fp16:
tf32: false

gradient_checkpointing: true
early_stopping_patience:
resume_from_checkpoint:
logging_steps: 1
flash_attention: true

warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
debug:
deepspeed: deepspeed_configs/zero2.json
weight_decay: 0.0
fsdp:
fsdp_config:
special_tokens:
  pad_token: "<|end_of_text|>"
"""

LLAMA_FACTORY = """\
### model
model_name_or_path: org/small-llama
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
quantization_bit: 4

### dataset
dataset: identity,answers
dataset_dir: data
template: llama3
cutoff_len: 1024
max_samples: 1000
packing: true
overwrite_cache: true
preprocessing_num_workers: 16

### output
output_dir: saves/small-llama/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
report_to: none

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null

### eval
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
"""

DATASET_INFO = """\
{
  "identity": {"file_name": "identity.json"},
  "answers": {
    "hf_hub_url": "org/answers",
    "subset": "english",
    "formatting": "sharegpt",
    "columns": {"messages": "turns"},
    "tags": {
      "role_tag": "role",
      "content_tag": "content",
      "user_tag": "user",
      "assistant_tag": "assistant"
    }
  }
}
"""

REGISTRY = discover()


def shortened(text: str, *keys: str) -> str:
    """Return a config without the lines of some keys, which must be there."""
    lines = text.splitlines()
    kept = [line for line in lines if not any(line.startswith(f"{key}:") for key in keys)]
    assert len(kept) == len(lines) - len(keys)
    return "\n".join(kept) + "\n"


def options_of(task: Any) -> dict[str, Any]:
    """Return a task's options, its kind included."""
    return {"name": task.name, "type": task.type, **task.options}
