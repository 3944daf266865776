"""Keep secrets out of logs, pickles and core dumps."""

import resource
from typing import NoReturn


def disable_core_dumps() -> None:
    """Turn off core dumps of this process and its children: a dump would contain keys.

    The limit is 1 byte, not 0. If core dumps go to a program, such as systemd-coredump, Linux
    ignores 0, and treats 1 as "none" (fs/coredump.c).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


class SecretHolder:
    """Base of objects that hold keys. Its repr shows only the type, and pickling raises."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds keys and can't be pickled")
