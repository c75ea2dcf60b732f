"""Notebook 07: iterate, ablate, scale. The paper's sections 4.5 (Figure 3), 4.6 (Table 7) and 4.2 (Figure 7), and two
curves of ours, over training pairs and over wrong labels.

`07_iterate/results.json` has, beside `profile`, `label`, `n`, `seeds` and `answer_model`, these lists of rows. A row's
text fields come first and name it; rates are fractions; `net_win` is (B - A) / n with `ci_low`, `ci_high` (95 %, over
questions and seeds), `spread` has one net win per seed, `share_B`, `share_C`, `share_A` and `share_invalid` add to 1.

    rows        {experiment, setting, answer_model, judge, against, net_win, ci_low, ci_high, n, seeds, spread, ...};
                experiment is iterate (setting round_1 ...), feedback (bpo, no_feedback; against original or
                no_feedback), scaling (<answer model>, <answer model>+bpo; against the last answer model's original
                prompts), sizes (pairs_100 ... pairs_all; `pairs`) or noise (noise_0 ... noise_40; `noise`)
    steps       {setting, judge, ...}: round_1_to_2: what the second round adds to the first, and so on; round_1_to_4:
                what the rounds after the first add together, but for the last
    saturation  {judge, saturates_after}: the first round after which one more adds nothing that shows; null: none
    named       some of these rows under names that do not depend on the settings, for the report (`named`)
    drift       {experiment, setting, growth, chrf, flagged, unchanged, ...}: what rewriting did to the texts
    trials      {trial, source, pairs, seed, seconds}: the rewriters, and whether they were trained or loaded
"""
