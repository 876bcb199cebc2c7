"""The embedded API server: enough of kube-apiserver for one node, ``kubectl`` and tests.

It stands beside the agent and meets it only over HTTP. Inside, a request goes

::

    server (TLS, HTTP/2) → routes → authn → authz → admission → registry → storage
                                                        watch ◄─────────────┘  (every commit, fanned out)
    controllers: in-process clients of registry and watch (bind pods, fill and empty namespaces)

It is not a cluster: one process, one writer, no aggregation, no conversion between API versions.
"""
