"""Models of the Hugging Face hub: asked for once before anything is loaded, and pushed with their card."""

from __future__ import annotations

import functools
import logging
import re
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from preftree.errors import ConfigError, ModelError
from preftree.models.foreign import foreign

log = logging.getLogger("preftree")

_FILES = ("config.json", "adapter_config.json", "tokenizer_config.json")
_SECONDS = 10.0
_OWNED = re.compile(r"[\w.-]+/[\w.-]+")
_CARD = "README.md"


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


def require_login(repo: str) -> None:
    """See that models can be pushed, before hours are spent on one: the hub knows who asks.

    The token is that of huggingface_hub: `$HF_TOKEN`, or what `hf auth login` keeps.

    Raises:
      ConfigError: the name is none of a model on the hub, or nobody is logged in.
      ModelError: the hub does not answer.
    """
    if not _OWNED.fullmatch(repo):
        raise ConfigError(f"--push names a model of the Hugging Face hub, OWNER/NAME, got {repo!r}")
    with foreign("--push: the Hugging Face hub does not say who is logged in"):
        try:
            HfApi().whoami()
        except LocalTokenNotFoundError as error:
            raise ConfigError("--push needs a token of the Hugging Face hub: `hf auth login`, or $HF_TOKEN") from error


def push_folder(folder: Path, repo: str) -> str:
    """Push a model folder as one commit; a model that is new there is private. Returns the address of the commit.

    On the pushed card the model is loaded by its name there, and not from the folder.

    Raises:
      ModelError: the hub does not take it; the folder is as it was.
    """
    api = HfApi()
    card = (folder / _CARD).read_text(encoding="utf-8")
    card = card.replace(f"{str(folder.resolve())!r}  # where it was written", repr(repo))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / _CARD]
    operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in files]
    with foreign(f"{folder} is written, and the Hugging Face hub did not take it as {repo}"):
        api.create_repo(repo, private=True, exist_ok=True)
        commit = api.create_commit(
            repo, [*operations, CommitOperationAdd(_CARD, card.encode())], commit_message=f"Model of {folder.name}"
        )
    return str(commit.commit_url)
