"""Floor 2, the network in pure torch: configuration, attention, GPT, loss, and its accounting without torch."""
