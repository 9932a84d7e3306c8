"""Shape and type annotations of the package are checked while the tests run."""

import os

import hypothesis
import torch
from jaxtyping import install_import_hook

# Read at import time of libraries that only the tests' modules import.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

install_import_hook("preftree", "beartype.beartype")
torch.set_num_threads(1)

# A slow machine is no failure; the same examples every time.
hypothesis.settings.register_profile("preftree", deadline=None, derandomize=True)
hypothesis.settings.load_profile("preftree")

# Every run answers prompts before and after training: a few tokens are enough where no test reads them.
from preftree.evaluate.in_memory import before_and_after  # noqa: E402

before_and_after.LONGEST_ANSWER = 4
