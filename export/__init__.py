"""The export path: from checkpoints of the reference model to a bundle. Needs torch."""
