"""What ``open`` checks of the AWS configuration without connecting: that the profile is there and a region is known."""

from botocore import exceptions as aws  # type: ignore[import-untyped]
from botocore.session import Session  # type: ignore[import-untyped]

from idemstore.backends.dynamodb.settings import Settings
from idemstore.errors import ConfigurationError


def check_profile(settings: Settings) -> None:
    """Raise ``ConfigurationError`` for a profile that is not there, a region that nobody names, or unreadable files."""
    session = Session(profile=settings.profile)
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
