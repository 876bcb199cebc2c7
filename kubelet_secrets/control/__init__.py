"""The agent's own window for root on this machine: a unix socket that the command line asks.

``protocol`` is the words, ``server`` the agent's end, ``client`` the command's end. It is not the kubelet's HTTP API (that is
``node/``), and nothing of the cluster goes through it.
"""
