"""Launchers of ``vsad._cuda``, one module an operator."""
