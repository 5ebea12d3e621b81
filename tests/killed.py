"""Runs vsad's commands, each in a process of its own that is killed at its n-th change of a file.

Started as a script, with a JSON list of [arguments, n] on stdin, n null for none; prints the statuses as JSON. All
processes are forks of this one, which has imported everything and has one thread: that saves the seconds that imports
take, and libraries' threads do not survive a fork.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_and_kill(jobs, cwd):
    """Run commands one after the other; returns the status of each, -9 where it was killed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(jobs), cwd=cwd, env=environment,
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def _count_down(changes):
    """Kill this process at its n-th change of a file: a rename, a write to a journal, bytes brought to the disk."""

    def counted(function):
        def call(*arguments, **options):
            nonlocal changes
            changes -= 1
            if changes < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("replace", "write", "fsync", "unlink", "ftruncate"):
        setattr(os, name, counted(getattr(os, name)))


def _child(arguments, changes):
    from vsad import cli

    sys.argv = ["vsad", *map(str, arguments)]
    log = os.open("killed.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if changes is not None:
        _count_down(changes)
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    import cv2
    import torch

    from vsad import cli  # noqa: F401
    from vsad.models import VALDM  # noqa: F401  (and with it diffusers, which commands import when they need it)
    from vsad.pipeline import run  # noqa: F401

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    statuses = []
    for arguments, changes in json.load(sys.stdin):
        pid = os.fork()
        if pid == 0:
            _child(arguments, changes)
        deadline = time.monotonic() + 300
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise SystemExit(f"{arguments} hangs")
            time.sleep(0.01)
        statuses.append(os.waitstatus_to_exitcode(ended[1]))
    print(json.dumps(statuses))
