"""Control: decides and remembers. One process, which traffic does not need.

The life of a switchover, in reading order:

1. `wishes`: what somebody wants becomes a value, `state.Switchover`.
2. `switchover`: its events and the one table of its moves; `orders`: what each state asks for.
3. `health`, `evidence`, `decider`: may weight rise, must it go back, and why.
4. `database` on `ledger` (with `rows`, `schema.sql`, `migrations`): each decision is one durable
   transaction; `store` is the thread that they run in.
5. `executor`: what may be asked for; `carrier`: one task that carries one switchover out;
   `words`: a decision, then its routing word; `drain`: until nothing is in flight; `holds`.
   `ports` is what they need of the world; `refusals` what they answer instead.
6. `describe`, `events`, `journal`: what is told; `receipt`: what was counted.
7. `recovery`: where to go on after a start.
8. `beyond`, if `outer` is configured: what steers traffic beyond the proxy (DNS, load
   balancers, platforms; `outer`) as a part of the same switchover, kept by `outer_ledger`; `gating` asks the
   conditions for a step; `tail_watch` counts who still comes by the old way, and `tail` says when
   that is over.

Around it: `app` puts the parts together, started from the `source` that is in force. `api`
(with `routes`, `api_models`, `calls`, `views`, `problems`, `access`, `idempotency`, `event_stream`,
`refused_calls`, `openapi`, `exposition`; behind `api_listener`, which bounds its connections) and
`cli` (a file for each sort of command; with `entry`, `client`, `cli_output`, `outer_output`,
`tail_output`, `demo`) ask. `prober` (with `probe`), `resolver`, `discovery` (with `discovered`) and
`tail_watch` (with `tail`) look. `shared` is the memory that all processes share, `workers` and
`supervision` talk to the others; `died` takes in what they lost. `compiler`, `tables` and
`publisher` make what workers serve from, and `committed` keeps a copy of it. `logs` writes,
`file_warnings` looks at the API's files.
"""
