"""Advantages and losses of policy-gradient methods."""
