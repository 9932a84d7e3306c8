"""The demo: all methods on a small world whose optimum is known."""
