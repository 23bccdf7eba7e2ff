"""Floor 2, text to ids and back: the byte-level BPE trained and run by the Rust extension."""
