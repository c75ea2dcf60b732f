"""A policy that knows one wording per task, what paraphrases do to it, and two remedies (notebook 10)."""
