"""Models: one loader, one processor, one way from a record to tensors."""
