"""Law as data: rules, dates and sources. No rule of law stands in code; code reads rows of packs (`law/book.py`)."""
