"""Fills the tables of the README from the committed rows.

python benchmarks/readme_tables.py           write what changed
python benchmarks/readme_tables.py --check   only say whether it is up to date; tests do that
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from c2fcore.bench import report

TEXTS = ("README.md", "benchmarks/README.md")
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    stale = []
    for name in TEXTS:
        text = (ROOT / name).read_text()
        new = report.filled(text, ROOT)
        if new != text:
            stale.append(name)
            if not args.check:
                (ROOT / name).write_text(new)
    print(f"{'out of date' if args.check else 'written'}: {', '.join(stale) or 'nothing'}")
    sys.exit(1 if args.check and stale else 0)


if __name__ == "__main__":
    main()
