"""Libraries in C that run in a process of their own, so that a crash or a hang does not end the caller."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from pathlib import Path


class ChildProcess:
    """A Python program in a child process. It starts at the first use, and again after it died or after a fork.

    Args:
        program: Path of the program. The modules beside it are not its imports.
        arguments: Its arguments.
    """

    def __init__(self, program: Path, *arguments: str) -> None:
        self.command = [sys.executable, "-P", str(program), *arguments]
        self.process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.stop)

    def running(self) -> subprocess.Popen[bytes]:
        """Return the process, with pipes as its standard input and output."""
        if self.process is None or self._owner != os.getpid() or self.process.poll() is not None:
            self.stop()  # a forked process must not share the pipes, and leaves them alone
            pipe, self._owner = subprocess.PIPE, os.getpid()
            self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        return self.process

    def stop(self) -> None:
        """End the process, if this process started one."""
        if self.process is not None and self._owner == os.getpid():
            self.process.kill()
            self.process.communicate()
        self.process = None
