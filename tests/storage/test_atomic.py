"""Staging beside the living and the dead."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from preftree.errors import TrainingError
from preftree.storage.atomic import clear_leftovers, remove_dir, staged_dir, write_atomic
from preftree.storage.lock import lock_run, release_lock, take_lock

HOLD = """
import os, sys, time
from pathlib import Path
from preftree.storage.atomic import staged_dir
from preftree.storage.lock import lock_run
kind, folder = sys.argv[1], Path(sys.argv[2])
with staged_dir(folder) if kind == "stage" else lock_run(folder):
    if kind != "run, with a worker":
        print("ready", flush=True)
    elif os.fork() == 0:
        print("ready", flush=True)  # by the worker: before it runs it has not released the lock
        time.sleep(5)
        os._exit(0)
    time.sleep(60)
"""


def holder(kind: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, kind, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_second_trainer_is_refused_and_a_killed_one_frees_the_folder(tmp_path):
    run = tmp_path / "run"
    for _ in range(20):
        process = holder("run", run)
        with pytest.raises(TrainingError, match=rf"run is in use by process {process.pid} on .*out="), lock_run(run):
            pass
        kill(process)
        with lock_run(run):
            pass


def test_a_worker_that_outlives_a_killed_trainer_keeps_no_lock(tmp_path):
    process = holder("run, with a worker", tmp_path)
    with pytest.raises(TrainingError), lock_run(tmp_path):
        pass
    kill(process)  # the forked worker lives on
    with lock_run(tmp_path), pytest.raises(TrainingError), lock_run(tmp_path):
        pass


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    living, dead = holder("stage", tmp_path / "living"), holder("stage", tmp_path / "dead")
    kill(dead)
    assert len(list(tmp_path.iterdir())) == 2
    clear_leftovers(tmp_path)
    assert [path.name.split(".")[1] for path in tmp_path.iterdir()] == ["living"]
    kill(living)
    (tmp_path / ".hidden").touch()
    (tmp_path / ".notes.staging").touch()
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".notes.staging"]


def test_staging_clears_what_a_dead_writer_of_the_same_folder_left(tmp_path):
    kill(holder("stage", tmp_path / "model"))
    assert len(list(tmp_path.iterdir())) == 1
    with staged_dir(tmp_path / "model") as folder:
        (folder / "file").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_replacement_that_was_cut_off_is_undone(tmp_path):
    """Died between the two renames: the old folder stands aside, the new one is still staged."""
    old, new = tmp_path / ".model.0123abcd.replaced", tmp_path / ".model.4567cdef.staging"
    for path in (old, new):
        path.mkdir()
        (path / "file").write_text(path.name)
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "file").read_text() == old.name


def test_a_replacement_whose_old_folder_was_not_yet_deleted_stands(tmp_path):
    (tmp_path / ".model.0123abcd.replaced").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_text("new")
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "file").read_text() == "new"


def test_a_block_that_raises_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()

    def fill(final: Path, error: type[BaseException] | None) -> None:
        with staged_dir(final) as folder:
            (folder / "part").write_text("half")
            if error:
                raise error

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", KeyboardInterrupt)
    with pytest.raises(NotADirectoryError):
        fill(tmp_path / "file", None)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_half_deleted_is_not_there(tmp_path, monkeypatch):
    target = tmp_path / "step-000001"
    target.mkdir()
    (target / "file").touch()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        remove_dir(target)
    monkeypatch.undo()
    assert not target.exists()
    clear_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_readers_see_the_old_or_the_new_file(tmp_path):
    path = tmp_path / "state.json"
    write_atomic(path, "0" * 50_000)
    stop = threading.Event()
    torn = []

    def read() -> None:
        while not stop.is_set():
            text = path.read_text()
            if len(text) != 50_000 or len(set(text)) != 1:
                torn.append(text[:20])

    reader = threading.Thread(target=read)
    reader.start()
    for count in range(60):
        write_atomic(path, str(count % 10) * 50_000)
    stop.set()
    reader.join()
    assert torn == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_many_writers_of_one_folder_and_a_cleaner(tmp_path):
    """Every round somebody wins; nobody fails, and nothing is left behind."""
    errors = []

    def write(number: int) -> None:
        try:
            for _ in range(12):
                with staged_dir(tmp_path / "out") as folder:
                    for name in ("a", "b"):
                        (folder / name).write_text(str(number))
                clear_leftovers(tmp_path)
        except BaseException as error:
            errors.append(error)
            raise

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a").read_text() == (tmp_path / "out" / "b").read_text()


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomic(tmp_path / "file", b"x")
        with staged_dir(tmp_path / "deep" / "folder") as folder:
            (folder / "file").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "deep" / "folder").stat().st_mode) == 0o755


def test_a_lock_on_what_was_moved_away_is_no_lock(tmp_path):
    """Who waited for a lock must find out that the path is another file by now."""
    path = tmp_path / "file"
    path.touch()
    first = take_lock(path, wait=False)
    assert first is not None
    got: list[int | None] = []
    waiting = threading.Thread(target=lambda: got.append(take_lock(path, wait=True)))
    waiting.start()
    path.rename(tmp_path / "moved")
    path.write_text("new")
    release_lock(first)
    waiting.join()
    assert got[0] is not None
    assert os.path.samestat(os.fstat(got[0]), path.stat())
    release_lock(got[0])
    with pytest.raises(FileNotFoundError):
        take_lock(tmp_path / "absent", wait=False)
