"""The kubelet's HTTP API on :10250: what ``kubectl logs`` and ``kubectl exec`` reach through the API server.

``server`` listens; ``http1`` turns a connection into exchanges; ``authn`` and ``authz`` ask the API server who that is and what
they may; ``routes`` answers. ``channels`` are the streams of a command, carried by ``websocket`` or by ``spdy``.
"""
