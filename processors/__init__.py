"""The processors: verbs on their object, pure functions from state and event to effects."""
