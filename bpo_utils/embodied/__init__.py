"""A policy that knows one wording per task, what paraphrases do to it, and two remedies by the rewriter (notebook 10)."""
