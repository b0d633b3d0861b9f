"""What steers traffic beyond the proxy, as an optional outer layer of the same switchover.

In reading order:

1. `seams`: what a router, a source of servers and a gate are.
2. `loading`: by their kind in the settings, and only when configured.
3. A file for each system; `rest` for those with an HTTP API.
"""
