"""Floor 1, this machine: folders, files, errors, hardware facts, corpora on disk. Imports nothing of the package."""
