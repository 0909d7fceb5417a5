"""Engines generate text. `base` is the interface; each other file owns one backend and its heavy import."""
