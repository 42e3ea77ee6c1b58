"""The keys of LLaMA-Factory's configs for LoRA, and what becomes of them."""

from __future__ import annotations

from coral.spec.dialects.dialect import Refusal

MAPPED = {
    "stage": "`sft`, or an error",
    "finetuning_type": "`lora`, or an error",
    "dataset": "`tasks` of `type: sft`, one a data set, as `dataset_info.json` describes them",
    "dataset_dir": "where `dataset_info.json` lies; `data` if not given",
    "template": "`alpaca` keeps Alpaca's words; of other names, the tokenizer's own chat template",
    "val_size": "`validation_share` of every task, and its `test_share`",
    "max_samples": "`max_rows` of every task",
    "train_on_prompt": "`train_on_inputs` of every task",
    "packing": "`sample_packing` of every task",
    "neat_packing": "as `packing`: examples never see each other",
    "bf16": "`execution.precision: bfloat16` where it is true",
    "pure_bf16": "as `bf16`",
    "quantization_bit": "4 is `execution.load_in_4bit`; 8 is an error",
    "disable_gradient_checkpointing": "`execution.gradient_checkpointing`, the other way round",
    "gradient_checkpointing": "`execution.gradient_checkpointing`",
    "trust_remote_code": "`execution.trust_remote_code`",
    "optim": "AdamW in any form; others are an error",
    "adam_beta1": "0.9, or an error",
    "adam_beta2": "0.999, or an error",
    "adam_epsilon": "1e-8, or an error",
}
IGNORED = {
    "what to do": ("do_train", "do_eval", "do_predict", "predict_with_generate",
        "compute_accuracy", "plot_loss", "include_effective_tokens_per_second",
        "include_num_input_tokens_seen", "include_tokens_per_second", "print_param_status",
    ),
    "logging and experiment tracking": (
        "logging_*", "report_to", "run_name", "use_swanlab", "swanlab_*", "wandb_*", "project",
        "trackio_*", "ray_run_name",
    ),
    "when to evaluate and to save": (
        "eval_steps", "eval_strategy", "evaluation_strategy", "eval_delay", "eval_on_start",
        "eval_on_each_dataset", "eval_num_beams", "per_device_eval_batch_size",
        "eval_accumulation_steps", "save_steps", "save_strategy", "save_total_limit",
        "save_only_model", "save_safetensors", "overwrite_output_dir", "metric_for_best_model",
        "greater_is_better", "push_to_hub", "hub_*", "hf_hub_token", "ms_hub_token",
        "om_hub_token", "export_*",
    ),
    "how data are prepared and loaded": (
        "overwrite_cache", "preprocessing_*", "dataloader_*", "tokenized_path", "media_dir",
        "cache_dir", "remove_unused_columns", "group_by_length", "data_shared_file_system",
        "buffer_size", "use_fast_tokenizer",
    ),
    "where it runs": (
        "deepspeed", "fsdp", "fsdp_*", "ddp_*", "local_rank", "ray_*", "resources_per_worker",
        "placement_strategy", "low_cpu_mem_usage", "device_map", "quantization_device_map",
        "offload_folder", "use_reentrant_gc", "use_unsloth_gc", "use_cpu",
    ),
    "kernels and their rounding": (
        "flash_attn", "enable_liger_kernel", "use_unsloth", "use_v1_kernels", "tf32",
        "torch_compile", "torch_compile_*", "upcast_layernorm", "upcast_lmhead_output",
        "use_kv_cache",
    ),
    "generation, which no score here needs": (
        "infer_*", "do_sample", "temperature", "top_p", "top_k", "num_beams", "max_length",
        "max_new_tokens", "repetition_penalty", "length_penalty", "skip_special_tokens",
    ),
}  # fmt: skip
"""What is of no use to Coral."""

_OPTIMIZER = "Remove it: Coral trains with AdamW."
_STARTS_FROM_BASE = "Remove it: every genome starts from the base model, or from its parents."
_LADDER = "Remove it; training_stages say how long training is, and when a genome is given up."
_FILE = "Do it in the data themselves, and remove the key."
REFUSED = {
    "fp16": Refusal("16-bit floats without scaling", "Set bf16: true, or neither."),
    "fp8": Refusal("8-bit floats", "Set bf16: true."),
    "quantization_method": Refusal(
        "another kind of weights", "Write bnb.", ("bnb", "bitsandbytes")
    ),
    "quantization_type": Refusal("another kind of 4-bit weights", "Write nf4.", ("nf4",)),
    "double_quantization": Refusal(
        "4-bit weights with scales in 32 bits", "Remove it.", (True,)
    ),
    "adapter_name_or_path": Refusal("an adapter to go on from", _STARTS_FROM_BASE),
    "adapter_folder": Refusal("an adapter to go on from", _STARTS_FROM_BASE),
    "resume_from_checkpoint": Refusal("a checkpoint to go on from", _STARTS_FROM_BASE),
    "additional_target": Refusal("whole modules trained beside the adapter"),
    "loraplus_lr_ratio": Refusal("another learning rate for half of the adapter"),
    "pissa_init": Refusal("another start of the adapter"),
    "use_llama_pro": Refusal("new layers"),
    "use_galore": Refusal("another optimizer", _OPTIMIZER),
    "use_apollo": Refusal("another optimizer", _OPTIMIZER),
    "use_badam": Refusal("another optimizer", _OPTIMIZER),
    "use_adam_mini": Refusal("another optimizer", _OPTIMIZER),
    "use_muon": Refusal("another optimizer", _OPTIMIZER),
    "use_dft_loss": Refusal("another loss"),
    "use_asft_loss": Refusal("another loss"),
    "use_eaft_loss": Refusal("another loss"),
    "optim_args": Refusal("arguments of the optimizer"),
    "lr_scheduler_kwargs": Refusal("a schedule with arguments of its own"),
    "label_smoothing_factor": Refusal("another loss"),
    "neftune_noise_alpha": Refusal("noise on embeddings"),
    "max_steps": Refusal("an end after a number of steps", _LADDER, (False, -1)),
    "load_best_model_at_end": Refusal("the best checkpoint of a run", _LADDER),
    "early_stopping_steps": Refusal("an early end", _LADDER),
    "auto_find_batch_size": Refusal(
        "a batch size that depends on memory",
        "Remove it; execution.micro_batch_size bounds memory and keeps the batch.",
    ),
    "eval_dataset": Refusal(
        "other data to validate on", "Put both into one data set with splits, or set val_size."
    ),
    "mask_history": Refusal("the last turn alone to be learned"),
    "streaming": Refusal("a stream of data"),
    "mix_strategy": Refusal("other shares of the data", "Set task_weights.", ("concat",)),
    "interleave_probs": Refusal("other shares of the data", "Set task_weights."),
    "tool_format": Refusal("tools"),
    "default_system": Refusal("a system message", _FILE),
    "enable_thinking": Refusal("other prompts", harmless=(True,)),
    "ignore_pad_token_for_loss": Refusal("padding to be learned", harmless=(True,)),
    "model_revision": Refusal(
        "a revision of the model", "Download it, and name the folder.", ("main",)
    ),
    "rope_scaling": Refusal("other positions"),
    "shift_attn": Refusal("another attention"),
    "mixture_of_depths": Refusal("a changed model"),
    "moe_aux_loss_coef": Refusal("another loss"),
    "train_from_scratch": Refusal("weights from nothing"),
    "resize_vocab": Refusal("changed embeddings"),
    "add_tokens": Refusal("new tokens"),
    "add_special_tokens": Refusal("new tokens"),
    "new_special_tokens_config": Refusal("new tokens"),
    "split_special_tokens": Refusal("other tokens"),
    "freeze_vision_tower": Refusal("images", harmless=(True,)),
    "image_max_pixels": Refusal("images", "Remove it; texts are trained on."),
    "video_max_pixels": Refusal("videos", "Remove it; texts are trained on."),
    "reward_model": Refusal("a reward model"),
    "ref_model": Refusal("a reference model"),
}  # fmt: skip
DESCRIBED = {
    "file_name": "`path`, in `dataset_dir`",
    "hf_hub_url": "`path`, a hub id",
    "cloud_file_name": "`path`, a URL",
    "formatting": "`format`: sharegpt and openai are `chat`; alpaca is `alpaca-chat`, or `alpaca`",
    "subset": "`subset`",
    "split": "`split`",
    "columns": "those of the usual names; `messages` may be another",
    "tags": "the usual names of roles and contents",
}
"""Keys of an entry of ``dataset_info.json``, and what becomes of them."""
DESCRIBED_REFUSED = {
    "ranking": Refusal("preferences", "Name data for supervised fine-tuning."),
    "folder": Refusal("a folder of a hub data set", "Download it, and set file_name."),
    "num_samples": Refusal("a number of rows", "Save as many as are wanted in a file."),
    "ms_hub_url": Refusal("ModelScope's hub", "Set hf_hub_url, or download it."),
    "om_hub_url": Refusal("Modelers' hub", "Set hf_hub_url, or download it."),
    "script_url": Refusal("a script that loads data", "Save the data as files."),
}
COLUMNS = {
    "prompt": ("instruction",),
    "query": ("input",),
    "response": ("output",),
    "system": (),
    "history": (),
    "tools": (),
    "images": (),
    "videos": (),
    "audios": (),
    "chosen": (),
    "rejected": (),
    "kto_tag": (),
}
"""Roles of columns besides ``messages``, and the names that Coral reads them by."""
TAGS = {
    "role_tag": ("from", "role"),
    "content_tag": ("value", "content"),
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"),
    "system_tag": ("system",),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call",),
}
