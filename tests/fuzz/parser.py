"""Have atheris look for a multipart body that breaks the parser: `python -m tests.fuzz.parser [SECONDS] [CORPUS]`.

It ends with the first input that does, which is then a file `crash-…`, `timeout-…` or `oom-…` in the folder that it was
started in. With a folder CORPUS, what was found worth keeping is kept there, and begun with the next time.
"""

import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import atheris

from app.storage.local import LocalStore

with atheris.instrument_imports(include=["app.api.multipart", "app.domain.filename", "python_multipart"]):
    from tests.fuzz import multipart


def escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main(seconds: str = "600", corpus: str = "") -> None:
    """Look for so long, in a child: libFuzzer ends the process that it is in."""
    folder = Path(tempfile.mkdtemp(prefix="bl-fuzz-"))
    if child := os.fork():
        status = os.waitpid(child, 0)[1]
        shutil.rmtree(folder)
        sys.exit(os.waitstatus_to_exitcode(status))
    store, hashers = LocalStore(folder / "objects"), ThreadPoolExecutor(1)
    store.prepare()
    seeds, words = folder / "seeds", folder / "dictionary"
    seeds.mkdir()
    for number, seed in enumerate(multipart.SEEDS):
        (seeds / str(number)).write_bytes(b"\x07" + seed)
    words.write_text("".join(f'"{escaped(word)}"\n' for word in multipart.DICTIONARY))
    options = [f"-max_total_time={seconds}", f"-max_len={multipart.MAX_BYTES}", f"-dict={words}"]
    bounds = ["-timeout=10", "-rss_limit_mb=1024"]

    def try_one(data: bytes) -> None:
        if data:
            multipart.check(data, store=store, hashers=hashers)

    atheris.Setup([sys.argv[0], *options, *bounds, *filter(None, [corpus]), str(seeds)], try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
