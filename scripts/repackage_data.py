"""Make shards of your own texts: a folder of parquet, JSONL or text files becomes a corpus a stage can name.

    python scripts/repackage_data.py DIR [--name NAME] [--force true]

The same as `python cli.py data repackage`, whose help explains the options.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli import main

if __name__ == "__main__":
    sys.exit(main(["data", "repackage", *sys.argv[1:]]))
