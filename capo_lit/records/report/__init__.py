"""Runs compared: systems, statistics, compute, figures, the page and the table of a sweep."""
