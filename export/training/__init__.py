"""Training of the demonstration model on synthetic phantoms: ``make train-demo``.

One command renders phantoms, trains encoder and heads, chooses the operating points on phantoms of
other seeds, and leaves a checkpoint and a recipe that `mammofm-lite export` turns into a bundle.
What comes out knows phantoms and nothing else: it is for demonstrations, never for a patient.
"""
