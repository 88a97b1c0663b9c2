"""Tests of django-cq, and the tiny Django project that they run in."""
