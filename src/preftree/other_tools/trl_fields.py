"""Every field of TRL's configurations: read, without effect on the result here, or possible at its default alone.

The names are those of TRL 1.16 and of transformers' TrainingArguments (5.23), from which TRL's configurations inherit.
"""

from __future__ import annotations

READ = frozenset(
    (
        *("output_dir", "seed", "data_seed", "report_to", "use_cpu", "resume_from_checkpoint"),
        *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps"),
        *("learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm"),
        *("bf16", "activation_checkpointing", "gradient_checkpointing", "torch_compile", "train_sampling_strategy"),
        *("logging_strategy", "logging_steps", "logging_first_step", "eval_strategy", "eval_steps", "eval_on_start"),
        *("save_strategy", "save_steps", "save_total_limit"),
        *("model_init_kwargs", "max_length", "truncation_mode", "loss_type", "loss_weights", "beta"),
        *("label_smoothing", "f_divergence_type", "f_alpha_divergence_coef", "ld_alpha", "use_weighting"),
        *("discopop_tau", "sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps", "router_aux_loss_coef"),
        *("dataset_text_field", "completion_only_loss", "assistant_only_loss", "center_rewards_coefficient"),
        *("desirable_weight", "undesirable_weight", "cpo_alpha", "simpo_gamma", "alpha", "max_completion_length"),
    )
)
"""Fields that become options of a run, or decide what is logged."""

_NO_LOADER = "rows are tokenised once and mapped into memory, without a data loader"
_NO_LOG = "it changes what the terminal shows, and the terminal shows our own log"
_NO_TRACKER = "it is read with its tracker alone"
_NO_DDP = "one process trains here; `torchrun preftree ...` is for several"
_NO_PADDING = "nothing is padded"
_NO_HUB = "it is read with push_to_hub alone"
_SCRIPT = "a script reads it, not a trainer"
_MEMORY = "it changes memory and time, not the result"

WITHOUT_EFFECT: dict[str, str] = {
    **dict.fromkeys(
        (
            *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
            *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order"),
            "dataset_num_proc",
        ),
        _NO_LOADER,
    ),
    **dict.fromkeys(("log_level", "log_level_replica", "log_on_each_node", "disable_tqdm"), _NO_LOG),
    **dict.fromkeys(
        ("run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), _NO_TRACKER
    ),
    **dict.fromkeys(
        (
            *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"),
            *("ddp_backend", "ddp_timeout", "local_rank", "average_tokens_across_devices", "save_on_each_node"),
        ),
        _NO_DDP,
    ),
    **dict.fromkeys(("pad_to_multiple_of", "pad_token", "padding_value", "length_column_name"), _NO_PADDING),
    **dict.fromkeys(
        (
            *("hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
            *(),
        ),
        _NO_HUB,
    ),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), _SCRIPT),
    **dict.fromkeys(
        (
            *("torch_empty_cache_steps", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
            *("eval_accumulation_steps", "use_cache", "skip_memory_metrics", "eval_use_gather_object"),
        ),
        _MEMORY,
    ),
    "per_device_eval_batch_size": "evaluation has a budget of tokens, and its figures do not depend on batches",
    "prediction_loss_only": "an evaluation gives figures alone",
    "eval_do_concat_batches": "an evaluation gives figures alone",
    "logging_nan_inf_filter": "a loss that is not finite stops a run",
    "remove_unused_columns": "the columns that TRL reads are read, and no others",
    "precompute_ref_log_probs": "the reference is always computed once, before training",
    "precompute_ref_batch_size": "the reference is computed within a budget of tokens",
    "padding_free": "nothing is padded, and no row attends to another",
    "packing_strategy": "it is read with packing alone",
}
"""Fields that change no number of a run here, with the reason; any value is taken."""

_CONSTANTS = "the optimisers here have PyTorch's default constants"
_HALF = "weights stay fp32 and products are fp32 or bfloat16: use bf16=True or bf16=False"
_METRICS = "figures are those of docs/reference.md, and logits are never kept"
_SHARDED = "sharding is not built in: one process trains here"
_BEST = "the model at the end is kept; preftree.dpo(keep_best='loss') keeps the best one too"

DEFAULT_ONLY: dict[str, str] = {
    **dict.fromkeys(("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "optim_target_modules"), _CONSTANTS),
    **dict.fromkeys(("fp16", "bf16_full_eval", "fp16_full_eval"), _HALF),
    **dict.fromkeys(("include_for_metrics", "batch_eval_metrics", "label_names"), _METRICS),
    **dict.fromkeys(("fsdp", "fsdp_config", "deepspeed", "parallelism_config", "accelerator_config"), _SHARDED),
    **dict.fromkeys(("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), _BEST),
    "lr_scheduler_kwargs": "the schedules here have no options",
    "label_smoothing_factor": "it smooths the labels of tokens; label_smoothing is that of preferences",
    "tf32": "set torch.backends.cuda.matmul.fp32_precision yourself",
    "torch_compile_backend": "torch.compile is called with its defaults",
    "torch_compile_mode": "torch.compile is called with its defaults",
    "use_liger_kernel": "the layers are those of transformers, and logits are never whole",
    "liger_kernel_config": "the layers are those of transformers, and logits are never whole",
    "neftune_noise_alpha": "policy and reference must be one function, and noise would make them two",
    "auto_find_batch_size": "a step is cut into micro-batches by a budget of tokens, which changes no result",
    "include_num_input_tokens_seen": "every row of metrics.jsonl counts tokens; leave it out",
    "eval_delay": "evaluations come at regular steps",
    "save_only_model": "a checkpoint is whole, so that a stopped run resumes bit for bit",
    "enable_jit_checkpoint": "SIGTERM and Ctrl-C always save a checkpoint",
    "push_to_hub": "train first, then `preftree export RUN FOLDER --push OWNER/NAME`",
    "ignore_data_skip": "a resumed run reads the rows that come next",
    "restore_callback_states_from_checkpoint": "callbacks are not stored",
    "full_determinism": "set CUBLAS_WORKSPACE_CONFIG and torch.use_deterministic_algorithms yourself",
    "dataloader_drop_last": "every row is trained on: the last step of an epoch takes the rows that are left",
    "debug": "there is no debug mode",
    "trust_remote_code": "code from the hub is never run",
    "disable_dropout": "policy and reference must be one function, so there is no dropout",
    "activation_offloading": "use gradient_checkpointing, or a smaller model",
    "dataset_kwargs": "rows are tokenised here",
    "chat_template_path": "set chat_template of the tokenizer and give it as processing_class",
    "eos_token": "set eos_token of the tokenizer and give it as processing_class",
    "shuffle_dataset": "shuffle the data set yourself, or use train_sampling_strategy='random'",
    "packing": "rows are packed within a step, without changing which rows make a step; leave it out",
    "eval_packing": "rows are packed within a step; leave it out",
    "generate_during_eval": "preftree.sample and `preftree eval winrate` generate after training",
    "is_encoder_decoder": "models are causal language models",
}
"""Fields that are refused at another value than their default, with the reason."""


def reason_of(field: str) -> str | None:
    """Why a field cannot be set to another value than its default; None where any value is taken or read.

    A field of a later version than the ones above is refused too.
    """
    if field in READ or field in WITHOUT_EFFECT:
        return None
    return DEFAULT_ONLY.get(field, "it is not known here: this is a field of a newer TRL or transformers")
