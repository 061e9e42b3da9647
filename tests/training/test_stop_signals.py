from __future__ import annotations

import os
import signal

import pytest

from vanilla_transformer.training import stop_signals
from vanilla_transformer.training.stop_signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered_and_nothing_breaks_off(number, capsys):
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received == number
    assert "Stopping after this update; a checkpoint will be written." in capsys.readouterr().err


def test_a_second_signal_is_obeyed_at_once_unless_it_is_the_launchers_copy(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stop_signals.time, "monotonic", lambda: now[0])
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        now[0] = 101.9
        os.kill(os.getpid(), signal.SIGINT)  # from the launcher, which got the same Ctrl-C
        assert signals.received == signal.SIGINT
        now[0] = 102.1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_signals_mean_what_they_meant_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), StopSignals():
        assert signal.getsignal(signal.SIGINT) != before[0]
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
