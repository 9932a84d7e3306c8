"""Shape and type annotations of the package are checked while the tests run."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

from jaxtyping import install_import_hook

install_import_hook("preftree", "beartype.beartype")

import torch

torch.set_num_threads(1)
