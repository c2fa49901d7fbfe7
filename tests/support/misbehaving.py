"""A plug-in of ill will, and one that says what it saw; `plug_ins.py` installs this file where children find it.

What `misbehave` does, the first word of the file says.
"""

import ctypes
import os
import subprocess
import sys
import time
from typing import BinaryIO

from app.processing.processor import Facts, FinalError, PassingError, Result


def overrun(where: int) -> None:
    ctypes.string_at(where)


class Misbehave:
    """Wants every file that is not called `good`."""

    def wants(self, facts: Facts) -> bool:
        return facts.filename != "good"

    def process(self, facts: Facts, file: BinaryIO) -> Result:
        word = file.read(20).split()[0].decode()
        result = getattr(self, f"do_{word}")(facts)
        return result if isinstance(result, Result) else Result(metadata={"did": word})

    def do_nothing(self, _facts: Facts) -> None:
        """Behave."""

    def do_sleep(self, _facts: Facts) -> None:
        time.sleep(0.3)

    def do_crash(self, _facts: Facts) -> None:
        overrun(1)

    def do_exit(self, _facts: Facts) -> None:
        os._exit(7)

    def do_loop(self, _facts: Facts) -> None:
        while True:
            pass

    def do_hang(self, _facts: Facts) -> None:
        """Hang in a process of its own, whose number it leaves behind."""
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        sys.stderr.write(f"grandchild {child.pid}\n")
        sys.stderr.flush()
        child.wait()

    def do_eat(self, _facts: Facts) -> None:
        held = []
        while True:
            held.append(bytearray(16 << 20))

    def do_print(self, _facts: Facts) -> None:
        """Print in Python, in C and by a program, far more than a log should hold."""
        sys.stdout.write("printed in Python\n" * 10_000)
        sys.stdout.flush()
        ctypes.CDLL(None).puts(b"printed in C")
        ctypes.CDLL(None).fflush(None)
        subprocess.run(["echo", "printed by a program"], check=True)

    def do_read_stdin(self, _facts: Facts) -> Result:
        return Result(metadata={"read": sys.stdin.read()})

    def do_refuse(self, _facts: Facts) -> None:
        raise FinalError("not-wanted", "It is not wanted.")

    def do_stumble(self, _facts: Facts) -> None:
        raise PassingError("try-later", "The moon is in the way.")

    def do_bug(self, _facts: Facts) -> None:
        raise ZeroDivisionError("division by zero")

    def do_long(self, _facts: Facts) -> None:
        raise FinalError("too-long", "\0\udc80 words" * 1000)

    def do_shout(self, _facts: Facts) -> None:
        raise FinalError("NOT A SLUG", "No.")

    def do_nul(self, _facts: Facts) -> Result:
        return Result(metadata={"text": "a\0b"})

    def do_surrogate(self, _facts: Facts) -> Result:
        return Result(metadata={"text": "\udc80"})

    def do_nan(self, _facts: Facts) -> Result:
        return Result(metadata={"number": float("nan")})

    def do_object(self, _facts: Facts) -> Result:
        return Result(metadata={"object": object()})

    def do_much(self, _facts: Facts) -> Result:
        return Result(metadata={"text": "x" * 20_000})

    def do_flood(self, _facts: Facts) -> Result:
        return Result(metadata={"text": "x" * (8 << 20)})

    def do_wide(self, _facts: Facts) -> Result:
        return Result(width=2**31, height=1)

    def do_type(self, _facts: Facts) -> Result:
        return Result(detected_type="text/plain\r\nX: y")

    def do_picture(self, _facts: Facts) -> Result:
        return Result(thumbnail=b"<svg onload=alert(1)>")


class Echo:
    """Returns what it was told, and what it may do."""

    def wants(self, _facts: Facts) -> bool:
        return True

    def process(self, facts: Facts, file: BinaryIO) -> Result:
        file.seek(-3, os.SEEK_END)
        tail = file.read().decode("latin-1")
        file.seek(0)
        seen = {
            "type": facts.detected_type,
            "declared": facts.declared_type,
            "filename": facts.filename,
            "size": facts.size_bytes,
            "attempt": facts.attempt,
            "earlier": sorted(facts.metadata),
            "tail": tail,
            "whole": len(file.read()),
            "pid": os.getpid(),
        }
        return Result(detected_type="application/x-echo", metadata=seen)
