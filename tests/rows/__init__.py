"""Tests that look behind the public verbs: rows, statements, races."""
