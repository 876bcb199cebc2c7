"""What the cluster sees of this node: its object, its lease, its identity, and the kubelet's HTTP API."""
