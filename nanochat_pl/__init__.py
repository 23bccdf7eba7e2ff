"""nanochat as a PyTorch Lightning suite: tokenizer, pretraining, midtraining, SFT, RL, evaluation, inference, chat.

The package is layered; a module imports from its own floor or below (`pyproject.toml` holds the contract):
system < model, optim, tokenizer, sandbox < artifacts, tasks < inference < data, evaluation < training < leaves.
"""

__version__ = "0.1.0"
