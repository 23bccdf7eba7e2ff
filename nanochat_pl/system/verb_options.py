"""What the verbs of a stage accept besides its configuration; without Lightning, for a quick help text."""

from __future__ import annotations

from typing import Any

VERB_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "fit": {
        "--fresh": {"action": "store_true", "help": "Start over; the old run is moved aside, never deleted."}
    },
    "plan": {
        "--devices": {"type": int | None, "help": "Plan for this many devices instead of this machine's."},
        "--json": {"action": "store_true", "help": "Print JSON instead of a table."},
    },
    "predict": {
        "--prompts": {
            "type": str | None,
            "help": "File with one prompt a line (default: those of `samples`).",
        },
        "--max_new_tokens": {"type": int, "default": 32, "help": "Length of each continuation in tokens."},
    },
}

DESCRIPTIONS = {
    "fit": "Train a stage. The same command continues a run that was stopped.",
    "validate": "Bits per byte on the pinned validation split.",
    "predict": "Continue prompts.",
    "plan": "Every number of a run and where it comes from, without touching a GPU or any data.",
}
