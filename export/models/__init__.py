"""Torch modules in the shape of the reference model: same mathematics, same state-dict keys."""
