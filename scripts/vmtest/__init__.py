"""``scripts/vm-test``: the program on the kernels people have. Run by hand; nothing imports it.

::

    __main__   options, one kernel after the other, the table
    image      the guest: a Debian 12 root in an ext4 image, kernels beside it; made once
    initramfs  the few files that find the root disk
    machine    one boot of qemu, from the disks to the report
    guest      what runs inside, as a systemd service; reports a line per check
    checks     what guest checks, and which promise each is about
"""
