"""A base for objects that hold keys: nothing prints them, nothing pickles them."""

from typing import NoReturn


class SecretHolder:
    """Shows its type only, and refuses to be pickled or copied by pickling."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds keys and can't be pickled")
