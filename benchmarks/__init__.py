"""Measurements: every figure beside a fixed floor of the same run, because only ratios mean something on a shared machine."""
