"""``scripts/real-cluster-test``: this program as a node of a real control plane. Run by hand; nothing imports it.

::

    __main__   options, one group of tests after the other, what held
    programs   etcd and the programs of Kubernetes, built from Debian's source package; made once
    verdict    what pytest's report says
"""
