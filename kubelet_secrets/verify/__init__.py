"""The proof on the user's own machine: plant values, let things go wrong, and look for them wherever they must not be.

Deciding: ``canaries`` (what is looked for), ``objects`` (what is planted), ``grades`` and ``report`` (what follows). Doing:
``scanner`` (reads), ``examination`` (what, and with which eyes), ``processes``, ``filesystems`` and ``machine`` (ask the
kernel), ``corecheck`` and ``paging`` (provoke it), ``pullserver`` (a registry that wants a password), ``nodes``, ``course``
(what happens to the values), ``run`` (all of it in order). Used by ``cli/verify.py`` and tests.
"""
