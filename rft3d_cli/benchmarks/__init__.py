"""Benchmarks: records and predictions → a result document.

Each module has one function ``score(records, predictions, *, scorer, answer_style, seed) -> Result``. The ``official``
scorer follows the public one in what it reads, matches and averages, quirks included, except that overlap is exact and
text is never evaluated; ``robust`` is ours. Nothing here imports torch.
"""
