"""Models of the Hugging Face hub: a name that is no folder here is asked for once, before anything is loaded."""

from __future__ import annotations

import functools
import logging

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from preftree.errors import ModelError
from preftree.models.foreign import foreign

log = logging.getLogger("preftree")

_FILES = ("config.json", "adapter_config.json", "tokenizer_config.json")
_SECONDS = 10.0


@functools.cache
def ask_hub(name: str) -> None:
    """Ask the hub for a model that is neither here nor in the hub's cache: once a process, and without retries.

    Libraries ask for each of its files, and repeat that for half a minute, before they say that there is none.

    Raises:
      ModelError: the hub has no such model, or cannot be reached.
    """
    if any(isinstance(_cached(name, file), str) for file in _FILES):
        return
    log.info("there is no folder %r here; asking the Hugging Face hub for a model of this name", name)
    # Besides its own errors the client raises those of the library underneath, whichever it is.
    with foreign(f"there is no folder '{name}' here, and the Hugging Face hub does not answer for a model"):
        try:
            HfApi().model_info(name, timeout=_SECONDS)
        except GatedRepoError as error:
            raise ModelError(
                f"model '{name}' of the Hugging Face hub is given to those who asked for it: agree on its page, and "
                "log in with `hf auth login`"
            ) from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise ModelError(
                f"there is neither a folder '{name}' here nor a model of this name on the Hugging Face hub; check the "
                "name"
            ) from error
        except OfflineModeIsEnabled as error:
            raise ModelError(
                f"there is no folder '{name}' here and no model of this name in the hub's cache, and HF_HUB_OFFLINE "
                "forbids to ask the Hugging Face hub; check the name"
            ) from error


def _cached(name: str, file: str) -> object:
    """The file of a model in the hub's cache, where it is there."""
    try:
        return try_to_load_from_cache(name, file)
    except HFValidationError:
        return None
