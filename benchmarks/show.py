"""The table of `robustdistill bench --json` files.  python benchmarks/show.py FILE..."""

import json
import sys
from pathlib import Path

from robustdistill.cli import render
from robustdistill.cli.bench import EPOCHS, STEPS, heading, table

for name in sys.argv[1:]:
    for line in Path(name).read_text(encoding="utf-8").splitlines():
        found = json.loads(line)
        print(heading(found) + "\n")
        for columns in (STEPS, EPOCHS):
            render.show(table(found["rows"], columns))
            print()
        render.say([f"{row['name']}: {note}" for row in found["rows"] for note in row["notes"]])
