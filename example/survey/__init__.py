"""The app of the example: it counts what is in a code base, one task per module."""
