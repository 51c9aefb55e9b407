"""The frozen floor: a bare confluent-kafka loop and the job it runs, kept as first written so that ratios to it stay comparable."""
