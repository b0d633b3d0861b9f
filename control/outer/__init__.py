"""What steers traffic beyond the proxy, as an optional outer layer of the same switchover.

In reading order:

1. `seams`: what a router, a source of servers and a gate are.
2. `loading`: by their kind in the settings, and only when configured. `layers` has them for all
   services of the configuration in force.
3. `moves`: one move of such a system, and what is to be done next for it, by value.
4. `mover`: carries it out, so that neither a crash nor a lost reply asks for anything twice.
5. `checking`: what is there now, without a running Turnout.
6. A file for each system; `rest` and `tokens` for those with an HTTP API, `aws` for AWS's.
"""
