"""The cluster engine in a world without chance: fake Kafka, virtual time, one thread, every fault drawn from one seed.

`world.py` is the way in. What runs on it is the real engine (`engine/kafka/`, `engine/loop.py`) with real processors.
"""
