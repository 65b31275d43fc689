"""An import with a progress bar, in a script without an event loop: each line of a CSV file
becomes a message. Its id is made of the file and the line, so an import that was interrupted is
begun anew and leaves nothing twice (within the broker's memory for ids, by default 2 minutes).

    python examples/import_csv.py people.csv
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.progress import Progress

import msg
import msg.sync

QUEUE = "people"


def rows(path: Path) -> Iterator[msg.Outgoing]:
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), 1):
            yield msg.Outgoing(row, message_id=f"{path.name}:{number}")


def main(path: Path) -> None:
    total = sum(1 for _ in rows(path))
    with msg.sync.connect(wait=30) as client, Progress() as progress:
        bar = progress.add_task(path.name, total=total)

        def kept(count: int) -> None:
            progress.update(bar, completed=count)

        done = client.publish_many(QUEUE, rows(path), mode="queue", on_progress=kept)
    print(f"{done.count} rows are kept, {done.duplicates} of them were before")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
