#!/usr/bin/env python3
"""Runs a command for which the kernel lacks something.

    refuse.py io_uring|trains COMMAND [ARGUMENT]...

A seccomp filter answers as a kernel or a container does that forbids io_uring (EPERM), or as a kernel
that cuts no trains of datagrams (ENOPROTOOPT about UDP_SEGMENT). Numbers are those of x86-64 and of
the generic table.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# include/uapi/linux/filter.h, include/uapi/linux/seccomp.h, include/uapi/linux/prctl.h
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
# struct seccomp_data: the number, then arguments of eight bytes, of which the low ones count.
NUMBER, ARGUMENTS = 0, 16

IO_URING_SETUP = 425
GETSOCKOPT = 55 if platform.machine() == "x86_64" else 209
SOL_UDP, UDP_SEGMENT = 17, 103

# What is compared, all of which must be equal, and the answer then.
CASES = {
    "io_uring": ([(NUMBER, IO_URING_SETUP)], errno.EPERM),
    "trains": (
        [(NUMBER, GETSOCKOPT), (ARGUMENTS + 8, SOL_UDP), (ARGUMENTS + 16, UDP_SEGMENT)],
        errno.ENOPROTOOPT,
    ),
}


def program(case):
    """The instructions, as a sequence of bytes."""
    comparisons, answer = CASES[case]
    code = []
    for index, (offset, value) in enumerate(comparisons):
        # To the last instruction, over the other comparisons and the answer.
        otherwise = 2 * (len(comparisons) - index - 1) + 1
        code += [(LOAD, 0, 0, offset), (EQUAL, 0, otherwise, value)]
    code += [(RETURN, 0, 0, ERRNO | answer), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def main():
    code = ctypes.create_string_buffer(program(sys.argv[1]))
    header = struct.pack("HxxxxxxP", (len(code) - 1) // 8, ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(PR_SET_SECCOMP, MODE_FILTER, header, 0, 0):
        sys.exit(os.strerror(ctypes.get_errno()))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
