"""One HTML file that shows a run's rollouts, critiques and curves, and needs nothing else."""
