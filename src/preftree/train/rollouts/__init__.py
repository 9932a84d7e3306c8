"""Sampled responses of the policy in training, and updates on them."""
