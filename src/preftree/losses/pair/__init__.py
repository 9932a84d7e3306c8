"""Losses of pairs, one file for each family.

Args, where a function does not say otherwise:
  policy: Summed response log-probs of each pair, nats, and their token counts, [P]; carries gradient.
  ref: The same pairs under the frozen reference, nats, [P].
  beta: Strength of the KL constraint, > 0.
Returns:
  Loss per pair, nats, [P]; not reduced.
Raises:
  ValueError: pair counts differ, or an option is out of its range.
"""
