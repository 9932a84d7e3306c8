"""What policy gradients minimise."""
