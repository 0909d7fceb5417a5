"""How good a judge is, on solutions whose first wrong step is known."""
