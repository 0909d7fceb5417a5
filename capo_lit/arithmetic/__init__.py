"""The built-in task, whole: problems, models, critiques, and judges by rule and by a pocket model."""
