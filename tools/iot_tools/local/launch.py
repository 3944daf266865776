"""Runs a program that, on Linux, receives a signal from the kernel when its parent dies.

This is a script (`python -I -S launch.py ...`), not a `preexec_fn`: if the parent has threads, the
child can't safely run Python between fork and exec.

Arguments: the pid of the parent, the signal to receive when the parent dies, the uid to run as
(-1: unchanged), the program and its arguments. The script execs the program, so the program has the
pid and the inherited files of the script.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522


def _checked(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def become(uid: int, libc: ctypes.CDLL) -> None:
    """Change from root to `uid` and keep only the capability to access any file.

    PostgreSQL refuses to run as root, so it runs as another user. This user may need access to
    program and data below root's home directory (mode 0700); a wider mode would let all users in.
    So the process keeps CAP_DAC_OVERRIDE, as an ambient capability, which child processes inherit.
    """
    _checked(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "keeping capabilities")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    only = 1 << CAP_DAC_OVERRIDE
    sets = (ctypes.c_uint32 * 6)(only, only, only, 0, 0, 0)  # effective, permitted, inheritable
    _checked(libc.capset(header, sets), "capset")
    _checked(
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0),
        "raising CAP_DAC_OVERRIDE",
    )


def die_with(parent: int, death_signal: int, libc: ctypes.CDLL) -> None:
    """Let the kernel signal this process when `parent` dies. Exit if `parent` is dead already."""
    _checked(libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0), "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        sys.exit(f"launch: process {parent} is gone")


def main(arguments: list[str]) -> None:
    """Prepare this process, then exec the program."""
    parent, death_signal, uid = (int(text) for text in arguments[:3])
    program = arguments[3:]
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if uid >= 0:
            become(uid, libc)
        # After the change of user, which clears the parent-death signal.
        die_with(parent, death_signal, libc)
    elif uid >= 0:
        os.setgid(uid)
        os.setuid(uid)
    os.execvp(program[0], program)  # noqa: S606 -- intended


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"launch: {sys.argv[4]}: {error}")
