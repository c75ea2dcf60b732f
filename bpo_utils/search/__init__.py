"""Notebook 09: automatic prompt search. APE, Iterative APE, ProTeGi (with a curriculum too), OPRO, PE2, PromptAgent and
ABO on one skeleton, with two controls, compared at equal cost.

A task (`task`) has rows in train, dev and test, and a metric; a candidate (`candidates`) is an instruction and its
lineage. `propose` asks the optimizer, `evaluate` scores on paired rows, `select` chooses; `state` holds and saves what
a search knows, `plan` says before the start what it can cost. A method is one file in `methods/`; the texts that the
optimizer gets are files in `prompts/`.

The notebook: `compare` makes all searches, `study` those on the landscape, `statistics` says what they show,
`against_bpo` puts BPO beside them, `figures`, `lineage` and `chapter` show it. `09_search/results.json` has, beside
`profile`, `label`, `task`, `seeds`, `budgets` and `n` (test rows), these lists of rows. A row's text fields come first
and name it (`method` as in `methods.NAMES`, `name` as its file says); scores, shares and differences are fractions,
`ci_low` and `ci_high` their 95 % interval; `p_holm` is corrected over the family that the row belongs to.

    scores       {method, name, budget, test, ci_low, ci_high, n, seeds, spread, dev, gap}: mean over seeds and rows
    largest      {name, test, ci_low, ci_high, n, seeds, budget, gain, gain_low, gain_high, p_holm, target_calls}: at
                 the largest budget, with the difference to the seed prompt and the calls used, for the report
    comparisons  {family, method, against, budget, difference, ci_low, ci_high, p, p_holm, n, seeds}; family is seed
                 (every method against the seed prompt), paraphrases (against the best of k), pairs (all methods)
    curves       {method, name, target_calls, dev, dev_low, dev_high, seeds}: what would be returned after so many calls
    ablation     {method, name, budget, test, blind_test, difference, ci_low, ci_high, p, p_holm, n, seeds, dev,
                 blind_dev}: with and without evidence; difference is with - without
    against_bpo  {method, which, test, ci_low, ci_high, n, seeds, minus_original, minus_original_low,
                 minus_original_high, minus_bpo, minus_bpo_low, minus_bpo_high, p, p_holm, instruction}; method also is
                 original or bpo; which is chosen (best seed by dev), seeds (mean over all), or empty; p is that of
                 method - BPO
    duels        {first, second, judge, net_win, ci_low, ci_high, n, share_B, share_C, share_A, share_invalid}; B: the
                 first is better; the shares add to 1
    study        {method, name, budget, regret, ci_low, ci_high, target_calls, seeds}: on the synthetic landscape
    costs        {method, name, budget, planned_target, most_target, planned_optimizer, target_calls, optimizer_calls,
                 measured, cached, duplicates, bad_replies, unreadable, target_tokens, optimizer_tokens, usd, seeds}:
                 of one search, mean over seeds; planned: at most; most_target: the seed with most
"""
