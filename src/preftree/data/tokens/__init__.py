"""Tokenisation of records within length budgets."""
