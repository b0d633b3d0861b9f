"""The life of a request: one worker, which moves bytes. Read the files in this order.

A connection arrives, and a request with it:

1. `worker`: the process; `worker_core`: its loop, its listeners, the table in force, its end.
   `listener` accepts; `channel` is the line to control; `serving` is the table come alive.
2. `downstream`: a client's connection finds a head and where its body ends.
   `head`, with `target` and `fields`, reads and rewrites it, `framing` says where the body
   ends; all of them refuse what could be read in two ways.
3. `routing`: host and path to a service, its routing word to one of two upstreams.
   `hold`: a held service's requests wait here, bounded.
4. `exchange`: the request is counted (`account`) and is that upstream's until it ends.
   `balancer` chooses a server, `pool` has or makes a connection to it, and `retry` says
   whether a failed attempt is made again.
   `fast_path`: the same for the commonest exchange, in two callbacks.
5. `upstream`: a server's connection writes the request and finds the response.
   `response_head` reads and rewrites its head; `tunnel` pumps bytes after a 101.
   `long_body`: the rest of a long answer goes past us, through a pipe (`splice`).
6. `replies`: what Turnout answers itself. `accesslog`: the line of an exchange that ended.

Beside it: `deadlines` (all timeouts, swept in bulk) and `drain` (what is under way, what is
cut, which idle connections are closed). `arrivals` stands before a `downstream` whose
requests are counted by the listener that they came in by.

The contract with the other processes, which import nothing else of this room: `scoreboard`
(shared memory) and `commands` (messages, the plan).
"""
