"""Notebook 09: automatic prompt search. APE, Iterative APE, ProTeGi (with a curriculum too), OPRO, PE2, PromptAgent and
ABO on one skeleton, with two controls, compared at equal cost.

A task (`task`) has rows in train, dev and test, and a metric; a candidate (`candidates`) is an instruction and its
lineage. `propose` asks the optimizer, `evaluate` scores on paired rows, `select` chooses; `state` holds and saves what
a search knows, `plan` says before the start what it can cost. A method is one file in `methods/`; the texts that the
optimizer gets are files in `prompts/`.
"""
