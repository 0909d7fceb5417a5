"""The LightningModules, their settings and callbacks."""
