"""The benchmark suite: one list of cases, every library that can do the same, and nothing timed that is wrong.

    cases       what is measured, as data
    operators/  per operator: inputs, useful work, and how a result is judged
    peers/      per library: the best way to do the same with it
    run         measures one case: judge, memory, interleaved rounds
    results     strict JSON; report and plots are made from it

In a checkout it stands at the top; installed, it is ``vsad.bench`` (a symlink), and always imported by that name.
"""
