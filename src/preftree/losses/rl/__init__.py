"""Advantages and losses of policy gradients."""
