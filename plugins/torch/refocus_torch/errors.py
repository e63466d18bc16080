"""Errors that a request is answered with."""


class Unsupported(Exception):
    """What this backend does not have: an operator, attribute, precision, loss or
    device. UNIMPLEMENTED on the wire, backend.ErrUnsupported in the harness."""


class Invalid(Exception):
    """What is wrong with a request; nothing has changed."""


class Cancelled(Exception):
    """The caller gave up."""


class Closed(Exception):
    """The session is unknown or closed: NOT_FOUND on the wire."""

    def __init__(self):
        super().__init__("the session is unknown or closed")
