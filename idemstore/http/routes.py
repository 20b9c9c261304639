"""Which paths a policy is for, and the template that a path belongs to."""

import re
from collections.abc import Callable

from idemstore.errors import ConfigurationError
from idemstore.http.facts import Request

Routes = Callable[[Request], str | bool | None]
"""A function of the request: the template of its route, or whether the policy is for it at all."""


def paths(*templates: str) -> Routes:
    """Only these paths. ``/calls/{id}`` takes any one segment in place of ``{id}``; the template becomes
    ``Request.route``, and so the operation.
    """
    if not templates or not all(isinstance(one, str) and one.startswith("/") for one in templates):
        raise ConfigurationError("paths() takes at least one path, each beginning with a slash")
    plain = {one for one in templates if "{" not in one}
    known = [(one, _pattern(one)) for one in templates if "{" in one]

    def route(request: Request) -> str | None:
        path = request.path
        if path in plain:
            return path
        return next((one for one, pattern in known if pattern.fullmatch(path)), None)

    return route


def _pattern(template: str) -> re.Pattern[str]:
    """The paths of a template."""
    parts = re.split(r"\{[^{}]*\}", template)
    return re.compile("[^/]+".join(map(re.escape, parts)))
