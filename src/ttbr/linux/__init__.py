"""What arm64 Linux and KVM lay out, by kernel version.

`eras` holds every rule that changed between versions as a row of a table; `config` a kernel's
configuration; `layout`, `idmap` and `hyp` the addresses that follow; `history` the defects that
earlier rules had. All of it is integer arithmetic on frozen values; `strategies` makes tables.
"""
