"""Measure CQ in a project: `cq_bench`.

Nothing else may import `functions`: what it registers shall be known to that command and its worker only.
"""
