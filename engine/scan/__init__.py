"""Looks for what must be gone in everything that rests: plain text, raw bytes, and whatever a living key still opens.

A scan trusts nothing of the system but the grammar of sealed tokens (`engine/sealing.py`) and the ring's list of living keys: it
reads files, segments and tables with its own eyes. `look.py` is the way in; `docs/scan.md` says what it finds and what it cannot.
"""
