"""kubelet-secrets: the node side of Kubernetes Secrets, as a program one can run, read, test against and trust.

The path of a secret, and of a reader of this package: ``client`` → ``cache`` → ``volume.payload`` →
``volume.atomicwriter`` → ``volume.store`` ⇢ ``fusefs.operations`` ⇢ container. docs/architecture.md draws it.
"""

__version__ = "0.1.0"
