"""What Turnout costs beside other proxies, on the same machine, in turns.

    python -m benchmarks [--only NAME] [--rounds 3] [--seconds 3]     docs/benchmarks.md
    python -m benchmarks --quick         Turnout against HAProxy and the committed result
    python -m benchmarks --smoke         whether the harness works

Figures of one machine in one minute say little by themselves: so in each round every proxy has
its turn under the same load, ratios are formed within a round only, and the median of the ratios
is held against a bar. The files, in reading order:

    workloads.py     pure: what is measured, who takes part, the bars, as data
    ratios.py        pure: rounds of samples -> ratios and their spread; bars -> met or not
    runner.py        a run: workload by workload, round by round, turn by turn
    drives.py        what is done to a proxy in its turn, and what is measured meanwhile
    switching.py     switches through the control API, and how long until all have seen one
    load.py          wrk with a script made for it, h2load with its log
    clients.py       clients of our own: echoes, event streams, idle ones, slow readers
    measure.py       CPU time and memory, from /proc

    peers.py         the proxies: how each is found, started and looked at
    peer_configs.py  pure: their configurations, as near to each other as it goes
    aiohttp_proxy.py the plain proxy in Python
    origin.py        what answers behind them: nginx, and `app.py` for what nginx does not do
    verify.py        whether a proxy answers rightly, before it is measured
    processes.py     pinned at their start, ended by their ids
    websocket.py     pure: frames, for the clients and the origin

    machine.py       cores, versions; `interpreter.py`: how this Python was built
    results.py       what was found, as values and as docs/benchmarks.json
    report.py        pure: the tables of docs/benchmarks.md
    plot.py          docs/benchmarks.svg
    terminal.py      what a person sees while it runs
    profiling.py     perf or py-spy beside a load
    hot_path.py      the worker's own part of a request, in one process: microseconds, opcodes
"""
