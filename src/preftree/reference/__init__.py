"""Reference log-probs: computed once, kept by content, and compared with the policy before the first step."""
