from __future__ import annotations

from kubelet_secrets.testing.controlplane import find_assets

# What has a meaning against real programs only; scripts/real-cluster-test names them, and so may anybody.
collect_ignore = [] if find_assets() else ["test_real_storage.py"]
