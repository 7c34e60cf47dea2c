"""Emulated CPUs that answer the questions which the rest of the library answers from its rules.

`unicorn_at` (in process) and `qemu_at` (a machine) execute AT instructions and real accesses;
`quirks` holds what is known to be wrong in each; `differential` compares them with `ttbr.walk`.
Both emulators are optional: `pip install 'ttbr[emulate]'`, `apt-get install qemu-system-arm`.
"""
