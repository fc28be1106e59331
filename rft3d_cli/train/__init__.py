"""Supervised warm-up and GRPO: TRL's trainers behind our adapters.

Whatever is private to TRL or transformers is in ``compat.py``.
"""
