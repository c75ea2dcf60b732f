"""Notebook 08: BPO as data augmentation (paper 4.4, Table 6), and against and on top of RLHF (4.3, Table 5).

`tasks` makes models and answers, two at a time, each in a process of its own (`work`); `dpo`, `policy_gradient` and
`augment` are what it trains, `policy` what they share, `with_trl` the same two trainings by the library TRL. `compare`
judges the answers, `figures` draws. A training's log has `held_out` rows: reward, rubric, KL and length by step.
"""
