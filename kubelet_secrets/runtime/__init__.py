"""Containers: OCI bundles on tmpfs, conmon and runc or crun, images by skopeo and umoci, sandboxes without a pause container.

Read in this order: ``settings`` (what is asked for), ``spec`` (pure: the OCI ``config.json``), ``bundle`` (the directory on the
run tmpfs), ``oci`` (create, start, kill, wait, adopt), ``sandbox`` (what the containers of a pod share), ``images``.
Used by ``pod.worker`` and ``agent``; knows nothing of pods beyond their names.
"""
