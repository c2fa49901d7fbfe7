"""`words`: counts the lines and words of text files. An example to copy; the interface is docs/processors.md."""

from typing import BinaryIO, Final

from app.processing.processor import Facts, FinalError, Result

MOST_BYTES: Final = 64 << 20


class Words:
    """Made once in each child process, so what is costly to load is loaded here, in `__init__`."""

    def wants(self, facts: Facts) -> bool:
        """Want what `inspect`, which ran before, found to be text; where it did not run, trust the client."""
        return (facts.detected_type or facts.declared_type or "").startswith("text/")

    def process(self, _facts: Facts, file: BinaryIO) -> Result:
        """Count, line by line, so that memory does not grow with the file. Raises FinalError: `text-too-long`."""
        lines = words = 0
        for line in file:
            lines += 1
            words += len(line.split())
            if file.tell() > MOST_BYTES:
                raise FinalError("text-too-long", f"Words are counted in texts of up to {MOST_BYTES >> 20} MiB.")
        return Result(metadata={"lines": lines, "words": words})
