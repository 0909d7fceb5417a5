"""Pure maths on tensors, floats and strings; needs torch alone and knows no config, engine or Trainer.

The map, in the order of one batch:

    steps     a response's text -> character spans of its steps -> the step of every token
    votes     k critiques -> one verdict; whether the critiques still out can change it
    credit    outcomes and step errors -> token rewards -> advantages
    logprobs  hidden states -> logprobs and entropies of the response tokens, chunk by chunk
    loss      logprobs and advantages -> PPO-clip loss; sums for its statistics
    reduce    masked and grouped reductions in float64 that the others share

Dimension letters, in every signature and shape comment:

    b  prompts            n  rows: b * g rollouts        s  steps of one response
    g  rollouts a prompt  t  response tokens, padded     k  critiques of one rollout
"""
