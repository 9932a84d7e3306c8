"""The process pool: results, errors, and one signal for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preftree.errors import TrainingError
from preftree.runtime.process_pool import run_in_pool
from preftree.runtime.signals import Stopped, stop_on_signals


def process_and_square(number: int) -> tuple[int, int]:
    return os.getpid(), number**2


def fail_at_two(number: int) -> int:
    if number == 2:
        raise TrainingError("two is too much")
    return number


def wait_for_a_signal(folder: Path) -> None:
    """A run that does nothing but wait for a signal; then it saves and raises that it was stopped."""
    with stop_on_signals() as request:
        (folder / f"began-{os.getpid()}").touch()
        for _ in range(600):
            if request.signum:
                (folder / f"saved-{os.getpid()}").touch()
                raise Stopped(request.signum)
            time.sleep(0.05)


def test_every_job_has_a_process_of_its_own() -> None:
    results = dict(run_in_pool([1, 2, 3, 4], process_and_square, at_once=2))
    assert {number: square for number, (_, square) in results.items()} == {1: 1, 2: 4, 3: 9, 4: 16}
    assert len({pid for pid, _ in results.values()} | {os.getpid()}) == 5


def test_an_error_of_a_job_is_an_error_here() -> None:
    with pytest.raises(TrainingError, match="two is too much"):
        list(run_in_pool([1, 2, 3], fail_at_two, at_once=1))


def short_or_waiting(folder: Path | None) -> None:
    """Done at once without a folder; with one, waits for a signal."""
    if folder is not None:
        wait_for_a_signal(folder)


def short_then_failing(folder: Path | None) -> None:
    """Fails without a folder; with one, waits for a signal."""
    if folder is not None:
        wait_for_a_signal(folder)
        return
    raise TrainingError("no more of this")


def die(_: int) -> None:
    os._exit(3)


def test_an_error_ends_the_others_with_time_to_save(tmp_path: Path) -> None:
    results = run_in_pool([tmp_path, None], short_then_failing, at_once=2)
    with pytest.raises(TrainingError, match="no more of this"):
        list(results)
    assert len(list(tmp_path.glob("began-*"))) == len(list(tmp_path.glob("saved-*")))


def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(TrainingError, match="died with exit code 3; its error message is printed above"):
        list(run_in_pool([1], die, at_once=1))


def test_a_signal_is_passed_on_and_waited_for(tmp_path: Path) -> None:
    """The parent alone gets it, when one job has ended already: those that run save, the last never begins."""
    code = (
        "import sys; from pathlib import Path; from preftree.runtime.process_pool import run_in_pool; "
        "from preftree.runtime.signals import Stopped; from runtime.test_process_pool import short_or_waiting\n"
        "if __name__ == '__main__':\n"
        "    folder = Path(sys.argv[1])\n"
        "    try: list(run_in_pool([None, folder, folder, folder], short_or_waiting, at_once=2))\n"
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
