"""A parent that will be killed: it prints the number of a child that hangs, and waits. `python -m … FOLDER`."""

import asyncio
import sys
from pathlib import Path

import psutil

from app import logs
from tests.support.workbench import bench


async def main(folder: Path) -> None:
    async with bench(folder, processes=1, processors=("misbehave",), seconds=1000) as made:
        working = asyncio.create_task(made.process(made.stored(b"loop"), seconds=1000))
        while not (children := psutil.Process().children()) or children[0].cpu_times().user < 0.5:
            await asyncio.sleep(0.05)
        print(children[0].pid, flush=True)  # noqa: T201 - the test reads it
        await working


if __name__ == "__main__":
    logs.configure("error", "console")
    asyncio.run(main(Path(sys.argv[1])))
