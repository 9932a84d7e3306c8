"""Folders of results are held until the command that reserves them ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from preftree.cli.shared import reservations, reserve
from preftree.errors import TrainingError
from preftree.storage.own_folder import own_folder

WAITS = """
import sys
from pathlib import Path
from preftree.cli import main, sweep
from preftree.cli.shared import reserve

@main.app.command("wait")
def wait(out: Path) -> None:
    reserve(out)
    print("reserved", flush=True)
    sys.stdin.read()

sys.argv = ["preftree", "wait", sys.argv[1]]
main.main()
"""


def test_a_command_holds_its_folder_until_it_ends(tmp_path: Path) -> None:
    """In a process of its own, through the command line as it is called."""
    command = [sys.executable, "-c", WAITS, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "reserved\n"
        with pytest.raises(TrainingError, match="in use"), own_folder(tmp_path / "out"):
            pass
        process.stdin.close()
    with own_folder(tmp_path / "out"):
        pass


def test_what_is_reserved_is_free_after_an_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with reservations():
            reserve(tmp_path / "out")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with own_folder(tmp_path / "out"):
        pass
    reserve(tmp_path / "out")  # outside of a command: marked, and not held
    with own_folder(tmp_path / "out"):
        pass
