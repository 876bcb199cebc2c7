"""The proof on the user's own machine: plant values, let things go wrong, and look for them wherever they must not be.

Deciding: ``canaries`` (what is looked for), ``objects`` (what is planted), ``grades`` and ``report`` (what follows). Doing:
``scanner`` (reads), ``processes``, ``filesystems`` and ``machine`` (ask the kernel), ``pullserver`` (a registry that wants a
password), ``corecheck``, ``course`` (what happens to the values), ``run`` (all of it in order). Used by ``cli/verify.py``
and tests.
"""
