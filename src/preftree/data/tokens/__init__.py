"""Records as token ids within their budgets."""
