"""Keeps processes running where no service manager does: each is started again by itself when it ends."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping

from deploy.processes import Process

LOOK_S = 0.2
RESTART_S = 3.0
STOP_S = 15.0


def keep_running(
    processes: Mapping[str, Process],
    say: Callable[[str], None],
    now_and_then: Callable[[], None] = lambda: None,
) -> None:
    """Run processes until this one is told to stop.

    Args:
        processes: By name.
        say: Told when one ends.
        now_and_then: Called every some seconds; what it cannot do it must not raise.
    """
    running = {name: _started(process) for name, process in processes.items()}
    ended_at: dict[str, float] = {}
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    called_at = 0.0
    try:
        while not stopped:
            now = time.monotonic()
            for name, process in running.items():
                if process.poll() is None:
                    continue
                if name not in ended_at:
                    say(f"{name} ended with {process.returncode}; it is started again")
                    ended_at[name] = now
                if now > ended_at[name] + RESTART_S:
                    del ended_at[name]
                    running[name] = _started(processes[name])
            if now > called_at + RESTART_S:
                called_at = now
                now_and_then()
            time.sleep(LOOK_S)
    finally:
        _end(running.values())


def _end(running: Iterable[subprocess.Popen[bytes]]) -> None:
    ending = list(running)
    for process in ending:
        process.terminate()
    for process in ending:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()


def _started(process: Process) -> subprocess.Popen[bytes]:
    return subprocess.Popen(process.words, env=os.environ | process.environment)  # noqa: S603  fixed words
