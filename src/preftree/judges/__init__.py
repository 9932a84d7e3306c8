"""Who says how good a response is: rules, and worlds whose reward is known."""
