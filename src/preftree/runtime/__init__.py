"""Every torch.distributed effect: who takes part, and what is summed over them."""
