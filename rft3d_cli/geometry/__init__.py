"""Boxes, cameras, overlap and matching in 3D. Pure numpy and scipy, float64 throughout."""
