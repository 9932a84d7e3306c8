import signal

import torch

from preftree.runtime.signals import stop_on_signals


def test_signals_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_on_signals() as request:
        assert request.signum == 0
        signal.raise_signal(signal.SIGTERM)
        assert request.signum == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert torch.get_num_threads() == 1
