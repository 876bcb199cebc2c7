"""``scripts/vm-test``: the program on the kernels people have. Run by hand; nothing imports it.

::

    __main__   options, one kernel after the other, the table
    checkout   this checkout, packed for the guest
    image      the guest: a Debian 12 root in an ext4 image, kernels beside it; made once
    initramfs  the few files that find the root disk
    machine    one boot of qemu, from the disks to the report
    results    outcomes that are kept, for --resume
    logs       what one check printed
    search     the host's search of the guest's disks afterwards
    guest      what runs inside, as a systemd service; reports a line per check
    checks     what guest checks
    canary     the check that sends values through a node that is short of memory and killed
    service    the check of the node as a service of systemd
    pods       what these two share
    patience   a pytest plugin for slow machines
    provision  the shell script that makes the guest out of a bare Debian
"""
