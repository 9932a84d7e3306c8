"""Rows of a data set on the Hugging Face hub, streamed; the id is `owner/name[#folder][@revision][:split]`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

from preftree.data.rows.fields import Row
from preftree.errors import DataError

log = logging.getLogger("preftree")

_ID = re.compile(
    r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(#(?P<folder>[\w-][\w./-]*))?"
    r"(@(?P<revision>[\w./-]+))?(:(?P<split>[\w.-]+))?"
)


@dataclass(frozen=True, slots=True)
class HubData:
    """A split of a data set at one commit.

    Attributes:
      name: Data set id, or a local folder that `datasets` can load.
      split: Name of the split; `train` by default.
      revision: The commit; None for a local folder.
      folder: The folder of the data set to read; None uses the files that the data set configures.
    """

    name: str
    split: str
    revision: str | None
    folder: str | None = None


def looks_like_hub_id(path: str) -> bool:
    """Whether a path that does not exist locally has the form of a hub id."""
    return _ID.fullmatch(path) is not None


def find_on_hub(path: str) -> HubData:
    """Resolve an id to a commit, so that its rows never change.

    Raises:
      DataError: no such data set, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    match = _ID.fullmatch(path)
    assert match is not None
    log.info("there is no file %r here; asking the Hugging Face hub for a data set of this name", path)
    try:
        commit = HfApi().dataset_info(match["name"], revision=match["revision"]).sha
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path} is neither a file here nor a data set that the hub gives: {reason}") from error
    return HubData(match["name"], match["split"] or "train", commit, match["folder"])


def read_hub(data: HubData) -> Iterator[Row]:
    """The rows of a split, streamed.

    Raises:
      DataError: the split does not exist, or reading failed.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        yield from load_dataset(
            data.name, data_dir=data.folder, split=data.split, revision=data.revision, streaming=True
        )
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loading script
        raise DataError(f"{data.name}:{data.split} cannot be read: {error}") from error
