"""The HTTP door: every call is authenticated, bounded, answered without echoing a value, and has no rule of its own."""
