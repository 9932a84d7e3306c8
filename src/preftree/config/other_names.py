"""Names that other programs give to our options, and the answers to options that do not exist here."""

from __future__ import annotations

from difflib import get_close_matches

# TRL's and the Hugging Face Trainer's names (checked against TRL 1.16), and those of the original DPO code.
_OTHER = {
    "model": "model_name_or_path model_name",
    "data": "dataset datasets dataset_name train_dataset",
    "eval_data": "eval_dataset",
    "out": "output_dir run_dir",
    "lr": "learning_rate",
    "optimizer": "optim",
    "loss": "loss_type",
    "loss (a weighted sum, such as {dpo: 1.0, sft: 0.2})": "loss_weights",
    "loss.label_smoothing": "label_smoothing",
    "loss.divergence (with loss=f_dpo)": "f_divergence_type",
    "loss.alpha (with loss=f_dpo loss.divergence=alpha_divergence; 1 minus TRL's)": "f_alpha_divergence_coef",
    "loss.alpha (with loss=ld_dpo)": "ld_alpha",
    "loss (loss=wpo)": "use_weighting",
    "loss.tau (with loss=discopop)": "discopop_tau",
    "loss.gamma (with loss=simpo)": "simpo_gamma",
    "loss.nll_weight (with loss=cpo)": "cpo_alpha",
    "loss.nll_weight (with loss=iterative_rpo)": "rpo_alpha",
    "loss.desirable_weight (with loss=kto)": "desirable_weight",
    "loss.undesirable_weight (with loss=kto)": "undesirable_weight",
    "schedule": "lr_scheduler_type lr_scheduler",
    "warmup_steps (a share of the run below 1, such as 0.1)": "warmup_ratio",
    "batch_size (examples per optimiser step) and micro_batch_tokens (how it is cut)": "gradient_accumulation_steps",
    "batch_size (examples per optimiser step, over all devices)": "per_device_train_batch_size",
    "batch_size": "train_batch_size",
    "micro_batch_tokens (evaluation uses the same token budget)": "per_device_eval_batch_size eval_batch_size",
    "epochs": "num_train_epochs n_epochs num_epochs",
    "max_response_length": "max_completion_length",
    "truncation": "truncation_mode",
    "save_every": "save_steps",
    "eval_every": "eval_steps",
    "track": "report_to",
    "keep_checkpoints": "save_total_limit",
    "resume": "resume_from_checkpoint",
    "precision=bf16": "bf16",
    "precision (fp32 or bf16)": "fp16",
    "precision (the weights stay fp32)": "torch_dtype dtype",
    "reference": "ref_model reference_model ref_adapter_name",
    "gradient_checkpointing": "activation_checkpointing",
    "loss (a loss that needs no reference)": "reference_free",
    "seed": "data_seed",
    "compile": "torch_compile",
    "lora (lora.r=16, say)": "use_peft",
    "lora.r": "lora_r lora_rank",
    "lora.alpha": "lora_alpha",
    "lora.dropout (only 0)": "lora_dropout",
    "lora.targets": "lora_target_modules",
    "lora.modules_to_save": "lora_modules_to_save",
    "lora.dora": "use_dora",
    "lora.rslora": "use_rslora",
    "quantize=nf4": "load_in_4bit",
    "quantize=int8": "load_in_8bit",
}

# Names for recipes that sample, of TRL's PPO, RLOO and GRPO, verl and OpenRLHF; used where the recipe has the option.
_ONLINE = {
    "max_new_tokens": "max_completion_length response_length max_tokens",
    "clip": "cliprange clip_range clip_ratio epsilon",
    "clip_value": "cliprange_value",
    "ppo_epochs": "num_ppo_epochs num_iterations",
    "minibatch_size (responses of an update)": "num_mini_batches",
    "minibatch_size": "mini_batch_size",
    "samples_per_prompt": "rloo_k num_generations num_return_sequences",
    "lam": "gae_lambda",
    "vf_coef": "value_coef",
    "entropy_coef": "ent_coef",
    "kl_coef": "init_kl_coef",
    "kl_target (set it to steer kl_coef)": "adap_kl_ctrl",
    "kl_target": "target",
    "kl_horizon": "horizon",
    "kl_target (steers kl_coef) or max_approx_kl (ends the epochs of a batch)": "target_kl",
    "max_approx_kl": "early_stopping",
    "max_steps (iterations of batch_size responses)": "total_episodes",
    "reward": "reward_model_path reward_model reward_funcs reward_fn",
    "normalize_rewards": "use_score_norm normalize_reward",
    "clip_rewards": "score_clip reward_clip_range",
    "normalize_rewards (by running figures) or whiten_advantages": "whiten_rewards",
    "method (method=grpo divides by the group's standard deviation)": "normalize_advantage scale_rewards advantage",
    "method": "loss_type policy_loss importance_sampling_level",
    "clip_high": "epsilon_high clip_ratio_high",
    "critic_lr": "value_lr critic_learning_rate",
}

OTHER_NAMES, ONLINE_NAMES = (
    {theirs: ours for ours, words in names.items() for theirs in words.split()} for names in (_OTHER, _ONLINE)
)
"""Our name of an option, with a remark, by each name that others give it."""

# Options of other programs that have no counterpart here, and what to do.
NOT_YET: dict[str, str] = {
    "logging_steps": "every optimiser step is written to metrics.jsonl; leave it out",
    "precompute_ref_log_probs": "the reference is always a table, computed once and reused; leave it out",
    "kl_estimator": "the log-ratio in a reward and k3 times the ratio in a loss alone have the gradient of the KL; "
    "leave it out",
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
