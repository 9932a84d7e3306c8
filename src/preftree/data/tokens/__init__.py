"""Token ids of records within their budgets."""
