"""Measuring what a model does: error rates, reports."""
