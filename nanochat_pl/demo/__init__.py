"""A leaf: the whole road on a laptop, and the controls that show what its score means."""
