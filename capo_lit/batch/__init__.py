"""The facts of one training step: what is carried, and how it becomes padded rows."""
