"""Real traffic by locust while it is switched, and three ledgers held against each other.

    python -m loadtests [--seconds 30] [--users 20] [--workers 2] [--seed N] [--json]
    python -m loadtests --switches 500 | --reloads 50 | --control-kills 100
    python -m loadtests.soak [--minutes 20] [--seed N] [--json]

What the clients sent and got, what the upstreams received, and what the proxy counted must say
the same of every single request. The files, in reading order:

    runner.py      one run, from the start of the processes to the verdict
    stage.py       the processes: upstreams, the product, locust; each ended by its own id
    schedule.py    pure: a seed -> what is switched, in which order
    driver.py      carries the schedule out through the control API
    locustfile.py  the clients, in locust's process (the only one that gevent has patched)
    upstream.py    a server that writes down what it gets, in a process of its own
    bodies.py      pure: what is in the bodies of requests and answers
    ledgers.py     pure: the lines of the ledgers, and what the proxy says
    checker.py     pure: the ledgers -> what is wrong, request by request
    view.py        progress while it runs, the table at the end

And with things broken on purpose, by `soak` and by the tests of `tests/faults`:

    faults.py      what can be broken, and how; contexts on the stage
    explained.py   pure: the ledgers and what was broken -> what no fault explains
    clients.py     clients in the caller's own loop, for runs of seconds
    monotonic.py   /metrics again and again: nothing that is counted goes down
    inside.py      the product's processes, by shared memory and /proc
    curves.py      pure: what processes take up -> curves, and whether they are flat
    soak.py        all of it for a long time
"""
