"""Doors and systems outside: one folder each."""
