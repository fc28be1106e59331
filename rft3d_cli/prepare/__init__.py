"""Raw data in, records out: one module a source."""
