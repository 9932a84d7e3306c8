"""A disk that is full, at any moment of a save: the error is clear and nothing that was good is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from preftree.errors import CheckpointError
from preftree.storage import checkpoint, manifest
from preftree.storage.checkpoint import CheckpointState, load_checkpoint, save_checkpoint


def make_state(step: int) -> CheckpointState:
    return CheckpointState({"model": {"w": torch.full((9,), float(step))}, "rng": {"s": torch.arange(3)}}, {"at": step})


class Faults:
    """Lets some calls through, then says that the disk is full, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10**9
        self.calls = 0
        for owner, name in [
            (checkpoint, "make_folder"),
            (checkpoint, "write_tensors"),
            (checkpoint, "write_manifest"),
            (manifest, "write_atomic"),
            (Path, "write_text"),
            (Path, "mkdir"),
            (os, "fsync"),
            (os, "rename"),
            (os, "replace"),
        ]:
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name)))

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*args: Any, **options: Any) -> Any:
            self.calls += 1
            self.left -= 1
            if self.left == -1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **options)

        return faulty


def test_at_every_call(tmp_path, monkeypatch):
    faults = Faults(monkeypatch)
    failed_early = failed_late = 0
    for passing in range(100):
        root = tmp_path / str(passing)
        faults.left = 10**9
        save_checkpoint(root, 1, make_state(1), keep=1)
        faults.left, faults.calls = passing, 0
        try:
            save_checkpoint(root, 2, make_state(2), keep=1)
        except CheckpointError as error:
            assert "No space left on device" in str(error)  # noqa: PT017 (the last round raises nothing)
        else:
            assert passing == faults.calls
            break
        faults.left = 10**9
        loaded = load_checkpoint(root)
        assert loaded is not None
        assert loaded.skipped == ()
        assert loaded.state.meta == {"at": loaded.step}
        assert torch.equal(loaded.state.tensors["model"]["w"], torch.full((9,), float(loaded.step)))
        failed_early += loaded.step == 1
        failed_late += loaded.step == 2
        assert not [path for path in root.iterdir() if path.name.startswith(".")]
        save_checkpoint(root, 3, make_state(3), keep=1)
        assert [path.name for path in root.iterdir()] == ["step-000003"]
    else:
        pytest.fail("the save never came to its end")
    print(f"{failed_early} failures before the new one was in place, {failed_late} after")
    assert failed_early >= 15
    assert 1 <= failed_late <= 5


SCRIPT = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path
    import torch
    from preftree.errors import CheckpointError
    from preftree.storage.checkpoint import CheckpointState, load_checkpoint, save_checkpoint

    root, limit = Path(sys.argv[1]), int(sys.argv[2])
    def state(step, length):
        return CheckpointState({"model": {"w": torch.full((length,), float(step))}}, {"at": step})
    small, large = 700_000, 900_000
    save_checkpoint(root, 1, state(1, small), keep=3)
    save_checkpoint(root, 2, state(2, small), keep=3)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for attempt in range(3):
        try:
            save_checkpoint(root, 3, state(3, large), keep=3)
            sys.exit("the disk was not full")
        except CheckpointError as error:
            print(error)
    assert sorted(path.name for path in root.iterdir()) == ["step-000001", "step-000002"]
    loaded = load_checkpoint(root)
    assert loaded.step == 2 and not loaded.skipped
    assert torch.equal(loaded.state.tensors["model"]["w"], torch.full((small,), 2.0))
    """
)


def test_a_limit_of_the_system(tmp_path):
    """The file size limit makes real writes fail, without any patching."""
    done = _python([sys.executable, "-c", SCRIPT, str(tmp_path / "checkpoints"), "3000000"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("File too large") == 3
    assert "earlier checkpoints are untouched" in done.stdout


def test_a_full_file_system(tmp_path):
    """A file system of 8 MB that two checkpoints nearly fill."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this machine does not let an ordinary user mount a file system of its own")
    mount = 'mount -t tmpfs -o size=8m none "$1" && shift && exec "$@"'
    script = [sys.executable, "-c", SCRIPT, str(tmp_path / "checkpoints"), "0"]
    done = _python(["unshare", "-rm", "sh", "-c", mount, "sh", str(tmp_path), *script])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("No space left on device") == 3


def _python(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
