"""Law as data: rules, dates and sources. Packs come with part 4; until then `processors/terms.py` has cited constants."""
