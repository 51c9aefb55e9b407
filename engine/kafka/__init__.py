"""The cluster runtime: the same topology on Apache Kafka, exactly once. `runtime.py` is the way in."""
