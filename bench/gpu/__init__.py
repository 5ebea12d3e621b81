"""What we run to check the GPU kernels.

    check      builds, tests and measures on a machine with a GPU: ``python -m vsad.bench.gpu.check``
    compile    inspects the machine code of every GPU kernel, without a GPU: ``python -m vsad.bench.gpu.compile``
    parts      the jobs of ``check``
    processes  runs them, each in a process of its own, and stops those whose time is up
    outcome    tells from a job's exit status and output how it ended
    once       calls our CUDA kernels on one case of the suite, for a profiler
    archive    keeps a copy of what was found so far
    state      remembers the outcomes, so that a run that was cut off goes on where it stopped
    summary    writes the page that ``check`` leaves behind

It is used from a checkout and is not installed.
"""
