"""Folds events exactly once, seals, remembers and proves; knows offsets, transactions and keys, and no domain field."""
