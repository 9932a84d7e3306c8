"""Names that other programs give to our options, and the answers to options that do not exist here."""

from __future__ import annotations

from difflib import get_close_matches

# TRL's and the Hugging Face Trainer's names (checked against TRL 1.16), and those of the original DPO code.
OTHER_NAMES: dict[str, str] = {
    "model_name_or_path": "model",
    "model_name": "model",
    "dataset": "data",
    "datasets": "data",
    "dataset_name": "data",
    "train_dataset": "data",
    "eval_dataset": "eval_data",
    "output_dir": "out",
    "run_dir": "out",
    "learning_rate": "lr",
    "optim": "optimizer",
    "loss_type": "loss",
    "loss_weights": "loss (a weighted sum, such as {dpo: 1.0, sft: 0.2})",
    "label_smoothing": "loss.label_smoothing",
    "f_divergence_type": "loss.divergence (with loss=f_dpo)",
    "f_alpha_divergence_coef": "loss.alpha (with loss=f_dpo loss.divergence=alpha_divergence; 1 minus TRL's)",
    "ld_alpha": "loss.alpha (with loss=ld_dpo)",
    "use_weighting": "loss (loss=wpo)",
    "discopop_tau": "loss.tau (with loss=discopop)",
    "simpo_gamma": "loss.gamma (with loss=simpo)",
    "cpo_alpha": "loss.nll_weight (with loss=cpo)",
    "rpo_alpha": "loss.nll_weight (with loss=iterative_rpo)",
    "desirable_weight": "loss.desirable_weight (with loss=kto)",
    "undesirable_weight": "loss.undesirable_weight (with loss=kto)",
    "lr_scheduler_type": "schedule",
    "lr_scheduler": "schedule",
    "warmup_ratio": "warmup_steps (a share of the run below 1, such as 0.1)",
    "gradient_accumulation_steps": "batch_size (examples per optimiser step) and micro_batch_tokens (how it is cut)",
    "per_device_train_batch_size": "batch_size (examples per optimiser step, over all devices)",
    "train_batch_size": "batch_size",
    "per_device_eval_batch_size": "micro_batch_tokens (evaluation uses the same token budget)",
    "eval_batch_size": "micro_batch_tokens (evaluation uses the same token budget)",
    "num_train_epochs": "epochs",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "max_completion_length": "max_response_length",
    "truncation_mode": "truncation",
    "save_steps": "save_every",
    "eval_steps": "eval_every",
    "save_total_limit": "keep_checkpoints",
    "resume_from_checkpoint": "resume",
    "bf16": "precision=bf16",
    "fp16": "precision (fp32 or bf16)",
    "torch_dtype": "precision (the weights stay fp32)",
    "dtype": "precision (the weights stay fp32)",
    "ref_model": "reference",
    "reference_model": "reference",
    "activation_checkpointing": "gradient_checkpointing",
    "reference_free": "loss (a loss that needs no reference)",
    "data_seed": "seed",
    "torch_compile": "compile",
    "use_peft": "lora (lora.r=16, say)",
    "lora_r": "lora.r",
    "lora_rank": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout (only 0)",
    "lora_target_modules": "lora.targets",
    "lora_modules_to_save": "lora.modules_to_save",
    "use_dora": "lora.dora",
    "use_rslora": "lora.rslora",
    "load_in_4bit": "quantize=nf4",
    "load_in_8bit": "quantize=int8",
    "ref_adapter_name": "reference",
}

# Names for recipes that sample, of TRL's PPO, RLOO and GRPO, verl and OpenRLHF; used where the recipe has the option.
ONLINE_NAMES: dict[str, str] = {
    "max_completion_length": "max_new_tokens",
    "cliprange": "clip",
    "clip_range": "clip",
    "clip_ratio": "clip",
    "epsilon": "clip",
    "cliprange_value": "clip_value",
    "num_ppo_epochs": "ppo_epochs",
    "num_iterations": "ppo_epochs",
    "num_mini_batches": "minibatch_size (responses of an update)",
    "mini_batch_size": "minibatch_size",
    "rloo_k": "samples_per_prompt",
    "num_generations": "samples_per_prompt",
    "num_return_sequences": "samples_per_prompt",
    "gae_lambda": "lam",
    "value_coef": "vf_coef",
    "ent_coef": "entropy_coef",
    "init_kl_coef": "kl_coef",
    "adap_kl_ctrl": "kl_target (set it to steer kl_coef)",
    "target": "kl_target",
    "horizon": "kl_horizon",
    "target_kl": "kl_target (steers kl_coef) or max_approx_kl (ends the epochs of a batch)",
    "early_stopping": "max_approx_kl",
    "response_length": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "total_episodes": "max_steps (iterations of batch_size responses)",
    "reward_model_path": "reward",
    "reward_model": "reward",
    "reward_funcs": "reward",
    "reward_fn": "reward",
    "use_score_norm": "normalize_rewards",
    "normalize_reward": "normalize_rewards",
    "score_clip": "clip_rewards",
    "reward_clip_range": "clip_rewards",
    "whiten_rewards": "normalize_rewards (by running figures) or whiten_advantages",
    "normalize_advantage": "advantage (advantage=grpo divides by the group's standard deviation)",
    "value_lr": "critic_lr",
    "critic_learning_rate": "critic_lr",
}

# Options of other programs that have no counterpart here, and what to do.
NOT_YET: dict[str, str] = {
    "logging_steps": "every optimiser step is written to metrics.jsonl; leave it out",
    "report_to": "every run writes metrics.jsonl and TensorBoard; leave it out",
    "precompute_ref_log_probs": "the reference is always a table, computed once and reused; leave it out",
    "padding_free": "batches are always packed; leave it out",
    "packing": "batches are always packed; leave it out",
    "remove_unused_columns": "data columns are recognised by their format; leave it out",
}


def unknown_option(name: str, known: list[str]) -> str:
    """A sentence on an option that does not exist; `known` are the names that do."""
    first = name.split(".")[0]
    for asked in (name, first):
        if asked in known:
            break
        if (ours := ONLINE_NAMES.get(asked)) and ours.split()[0] in known:
            return f"unknown option {name!r}; here it is called {ours}"
        if asked in OTHER_NAMES:
            return f"unknown option {name!r}; here it is called {OTHER_NAMES[asked]}"
        if asked in NOT_YET:
            return f"option {name!r}: {NOT_YET[asked]}"
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
    return f"unknown option {name!r}; {hint}"
