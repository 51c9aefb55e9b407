"""Every event and topic value, with its labels: the one place where a field is declared."""
