"""Configurations of other tools, read as ours: TRL, LLaMA-Factory and axolotl."""
