"""Talking to the API server: kubeconfig, HTTP/2 transport, typed requests. Knows nothing of pods, caches or volumes."""
