"""What the verbs of a stage accept besides its configuration; without Lightning, for a quick help text."""

from __future__ import annotations

from typing import Any

VERB_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "fit": {
        "--fresh": {"action": "store_true", "help": "Start over; the old run is moved aside, never deleted."},
        "--elastic": {
            "action": "store_true",
            "help": "Continue with another number of ranks: what is left to read is dealt anew.",
        },
    },
    "test": {
        "--tasks": {
            "type": str | None,
            "help": "Some tasks only, by name, with commas between (default: all of the stage).",
        },
        "--max_problems": {
            "type": int | None,
            "help": "The first so many items of each task, in an order that is always the same (default: all).",
        },
        "--num_samples": {"type": int, "default": 1, "help": "Written answers to each question."},
        "--pass_at": {
            "type": int | None,
            "help": "k of pass@k: one right answer among k counts (default: as many as --num_samples).",
        },
        "--temperature": {
            "type": float,
            "default": 0.0,
            "help": "Of written answers; 0 takes the likeliest.",
        },
        "--top_k": {"type": int | None, "default": 50, "help": "Tokens a written answer chooses from."},
        "--reference_shots": {
            "action": "store_true",
            "help": "CORE: draw examples from the items asked, as nanochat does, not from all.",
        },
        "--unsafe_code": {
            "action": "store_true",
            "help": "Run the model's programs even where nothing can lock them in.",
        },
        "--fresh": {"action": "store_true", "help": "Examine anew what has been examined already."},
        "--hf": {
            "type": str | None,
            "help": "Take CORE with a model of transformers from this folder instead; needs no --config.",
        },
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
    "test": "A stage's whole evaluation: CORE and bits per byte, or every chat task and ChatCORE.",
    "predict": "Continue prompts.",
    "plan": "Every number of a run and where it comes from, without touching a GPU or any data.",
}
