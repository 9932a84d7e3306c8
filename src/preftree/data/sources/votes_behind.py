"""The votes that a data file was made of: a small file beside it, FILE.votes, that names them by digest.

`preftree collect export` writes it, and the card of a model that is trained on the file repeats it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from preftree.storage.json_file import read_json, write_json
from preftree.storage.manifest import hash_file

log = logging.getLogger("preftree")


class VotesBehind(BaseModel):
    """Content of FILE.votes.

    Attributes:
      file_sha256: SHA-256 of the data file.
      votes_sha256: SHA-256 of the project's canonical export: one JSON object a current vote, by vote id.
      last_vote: Id of the project's last vote.
      data_format: Name of the format of the data file.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    file_sha256: str
    votes_sha256: str
    last_vote: int
    data_format: str


def write_votes_behind(path: Path, *, votes_sha256: str, last_vote: int, form: str) -> None:
    """Write FILE.votes for a data file that is there."""
    content = VotesBehind(file_sha256=hash_file(path), votes_sha256=votes_sha256, last_vote=last_vote, data_format=form)
    write_json(_beside(path), content.model_dump())


def votes_behind(path: str) -> dict[str, str | int]:
    """What a card says of the votes behind a data file; empty where no FILE.votes is beside it, or is of another file.

    Raises:
      DataError: FILE.votes cannot be read.
    """
    file = Path(path)
    if not file.is_file() or not _beside(file).is_file():
        return {}
    votes = read_json(_beside(file), VotesBehind, "export the project again")
    if hash_file(file) != votes.file_sha256:
        log.warning("%s is of another %s: the model card does not name the votes", _beside(file), file.name)
        return {}
    return {"votes_sha256": votes.votes_sha256, "last_vote": votes.last_vote}


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.votes")
