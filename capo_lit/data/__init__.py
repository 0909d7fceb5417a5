"""Where prompts come from: sources, rendering, loaders and the two DataModules."""
