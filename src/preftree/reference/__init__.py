"""Reference log-probs: computed once, stored by content, and compared with the policy before the first step."""
