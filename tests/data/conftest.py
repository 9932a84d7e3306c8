"""The machine that runs the tests may be busy: hypothesis sets no time limit here."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
