"""Floor 2, what the model asks to be computed: arithmetic by a grammar, Python in a locked process."""
