"""Preftree: preferences in, an aligned language model out.

The road, in order: records -> data -> tree -> scoring -> reference -> losses -> train -> a model folder.
"""

__version__ = "0.1.0"
