# GenericOAuthenticator: log in at a provider of OAuth 2 or OpenID Connect (Keycloak,
# GitLab, Authentik ...). Register the hub there with the address of oauth_callback_url.
# Copy this file to /etc/jupyterhub/jupyterhub_config.d/; read authenticators.md before.
# All settings: https://oauthenticator.readthedocs.io/

c = get_config()  # noqa: F821 (given by JupyterHub)
c.JupyterHub.authenticator_class = "debianized_jupyterhub.authenticators.oauth.SudoersOAuthenticator"

PROVIDER = "https://login.example.org"
c.GenericOAuthenticator.oauth_callback_url = "https://jhub.example.org/hub/oauth_callback"
c.GenericOAuthenticator.client_id = "jupyterhub"
c.GenericOAuthenticator.client_secret = "SECRET"  # so this file is 0640 root:jupyterhub
c.GenericOAuthenticator.authorize_url = f"{PROVIDER}/authorize"
c.GenericOAuthenticator.token_url = f"{PROVIDER}/token"
c.GenericOAuthenticator.userdata_url = f"{PROVIDER}/userinfo"
c.GenericOAuthenticator.scope = ["openid", "profile"]
c.GenericOAuthenticator.login_service = "Example"

# Which of the provider's claims is the account's name on this machine. It must be one
# that people cannot choose for themselves, or they choose somebody else's account.
c.GenericOAuthenticator.username_claim = "preferred_username"
# All whom the provider knows; sudoers has the last word. Or name them: allowed_users.
c.Authenticator.allow_all = True

# People without a local account get one: see authenticators.md.
# c.SudoersPolicy.create_accounts = True
