"""Floor 7, the plain verbs of the command line, one module a family; each imports what it needs when called."""
