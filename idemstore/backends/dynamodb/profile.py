"""What ``open`` does with the AWS configuration without connecting: check it, and load what botocore knows of DynamoDB.

Loading takes a tenth of a second of computing; done here, once for the process, it is no part of the first call's time.
"""

import ssl
from functools import cache
from typing import Protocol, cast

from botocore import exceptions as aws  # type: ignore[import-untyped]
from botocore.httpsession import get_cert_path  # type: ignore[import-untyped]
from botocore.session import Session  # type: ignore[import-untyped]

from idemstore.backends.dynamodb.settings import Settings
from idemstore.errors import ConfigurationError


class Loader(Protocol):
    """What we use of botocore's data loader, which keeps what it has loaded."""

    def load_service_model(self, service_name: str, type_name: str) -> object:
        """Load a description of a service."""
        ...

    def load_data(self, name: str) -> object:
        """Load another file."""
        ...

    def load_data_with_path(self, name: str) -> object:
        """The same, with its path."""
        ...


class Components(Protocol):
    """What we use of a botocore session."""

    def register_component(self, name: str, component: object) -> None:
        """Replace a part of the session."""
        ...


def check_profile(settings: Settings) -> None:
    """Raise ``ConfigurationError`` for a profile that is not there, a region that nobody names, or unreadable files."""
    session = Session(include_builtin_handlers=False, profile=settings.profile)
    try:
        region = settings.region or session.get_config_variable("region")
    except aws.ProfileNotFound:
        raise ConfigurationError(
            f"the AWS configuration files have no profile {settings.profile!r}: add it, or name another"
        ) from None
    except (aws.ConfigParseError, aws.ConfigNotFound) as error:
        raise ConfigurationError(f"the AWS configuration files cannot be read: {error}") from error
    if not region:
        raise ConfigurationError(
            "no AWS region: name it in the store URL (?region=eu-central-1), in the profile or in AWS_DEFAULT_REGION"
        )
    _loader()


@cache
def _loader() -> Loader:
    """A loader that has read all that a DynamoDB client needs."""
    loader = cast("Loader", Session().get_component("data_loader"))
    for kind in ("service-2", "endpoint-rule-set-1"):
        loader.load_service_model("dynamodb", kind)
    loader.load_data_with_path("endpoints")
    for name in ("partitions", "sdk-default-configuration", "_retry"):
        loader.load_data(name)
    return loader


def equip(session: Components) -> None:
    """Give a session what is loaded already."""
    session.register_component("data_loader", _loader())


def equipped(profile: str | None) -> Session:
    """A sync session that has loaded what it needs."""
    session = Session(profile=profile)
    equip(session)
    return session


def certificates(endpoint: str, bundle: str | None) -> ssl.SSLContext | None:
    """What TLS to the endpoint is verified by; None where it speaks none. Takes 30 ms of computing."""
    if not endpoint.startswith("https"):
        return None
    try:
        return ssl.create_default_context(cafile=bundle or get_cert_path(True))
    except OSError as error:
        raise ConfigurationError(
            f"the certificates that AWS_CA_BUNDLE or 'ca_bundle' names cannot be loaded ({error.strerror or error})"
        ) from error
