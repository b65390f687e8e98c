"""Log in at a provider of OAuth 2.0 or OpenID Connect."""

from oauthenticator.generic import GenericOAuthenticator

from ..authenticator import SudoersPolicy


class SudoersOAuthenticator(SudoersPolicy, GenericOAuthenticator):
    """The provider says who somebody is, sudoers whether they are welcome."""

    says_who_is_not_admitted = True
