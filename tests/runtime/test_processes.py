"""Jobs in processes of their own: results, errors, and one signal for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preftree.errors import TrainingError
from preftree.runtime.processes import Stopped, run_apart
from preftree.runtime.signals import stop_on_signals


def process_and_square(number: int) -> tuple[int, int]:
    return os.getpid(), number**2


def fail_at_two(number: int) -> int:
    if number == 2:
        raise TrainingError("two is too much")
    return number


def note_a_signal(folder: Path) -> None:
    """A run, as far as signals go: it notes one, saves, and says that it was stopped."""
    with stop_on_signals() as request:
        (folder / f"began-{os.getpid()}").touch()
        for _ in range(600):
            if request.signum:
                (folder / f"saved-{os.getpid()}").touch()
                raise Stopped(request.signum)
            time.sleep(0.05)


def test_every_job_has_a_process_of_its_own() -> None:
    found = dict(run_apart([1, 2, 3, 4], process_and_square, at_once=2))
    assert {number: square for number, (_, square) in found.items()} == {1: 1, 2: 4, 3: 9, 4: 16}
    assert len({pid for pid, _ in found.values()} | {os.getpid()}) == 5


def test_an_error_of_a_job_is_an_error_here() -> None:
    with pytest.raises(TrainingError, match="two is too much"):
        list(run_apart([1, 2, 3], fail_at_two, at_once=1))


def short_or_noting(folder: Path | None) -> None:
    """One that is done at once, among those that note a signal."""
    if folder is not None:
        note_a_signal(folder)


def short_then_failing(folder: Path | None) -> None:
    """One that fails as soon as another has begun, while that notes signals."""
    if folder is not None:
        note_a_signal(folder)
        return
    raise TrainingError("no more of this")


def die(_: int) -> None:
    os._exit(3)


def test_an_error_ends_the_others_with_time_to_save(tmp_path: Path) -> None:
    found = run_apart([tmp_path, None], short_then_failing, at_once=2)
    with pytest.raises(TrainingError, match="no more of this"):
        list(found)
    assert len(list(tmp_path.glob("began-*"))) == len(list(tmp_path.glob("saved-*")))


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(TrainingError, match="died with exit code 3, its last words stand above"):
        list(run_apart([1], die, at_once=1))


def test_a_signal_is_passed_on_and_waited_for(tmp_path: Path) -> None:
    """The parent alone gets it, when one job has ended already: those that run save, the last never begins."""
    code = (
        "import sys; from pathlib import Path; from preftree.runtime.processes import run_apart; "
        "from preftree.runtime.processes import Stopped; from runtime.test_processes import short_or_noting\n"
        "if __name__ == '__main__':\n"
        "    folder = Path(sys.argv[1])\n"
        "    try: list(run_apart([None, folder, folder, folder], short_or_noting, at_once=2))\n"
        "    except Stopped as stopped: sys.exit(100 + stopped.signum)\n"
    )
    script = tmp_path / "jobs.py"
    script.write_text(code)
    folder = tmp_path / "notes"
    folder.mkdir()
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen([sys.executable, str(script), str(folder)], env=os.environ | {"PYTHONPATH": paths})
    deadline = time.monotonic() + 120
    while len(list(folder.glob("began-*"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 100 + signal.SIGINT
    assert len(list(folder.glob("began-*"))) == len(list(folder.glob("saved-*"))) == 2
