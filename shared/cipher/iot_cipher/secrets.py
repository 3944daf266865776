"""A base class that keeps secrets out of logs and pickles."""

from typing import NoReturn


class SecretHolder:
    """Base of objects that hold keys. Its repr shows only the type, and pickling raises."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds keys and can't be pickled")
