# NativeAuthenticator: people sign up on /hub/signup, an administrator authorizes them on
# /hub/authorize, and they change their password on /hub/change-password.
# Copy this file to /etc/jupyterhub/jupyterhub_config.d/; read authenticators.md before.
# All settings: https://native-authenticator.readthedocs.io/

c = get_config()  # noqa: F821 (given by JupyterHub)
c.JupyterHub.authenticator_class = "debianized_jupyterhub.authenticators.native.SudoersNativeAuthenticator"

# Whom an administrator has authorized may log in; sudoers has the last word.
c.Authenticator.allow_all = True
# Sign up under this name first of all: it is authorized by itself.
c.Authenticator.admin_users = {"hubadmin"}

c.NativeAuthenticator.minimum_password_length = 10
c.NativeAuthenticator.check_common_password = True
c.NativeAuthenticator.allowed_failed_logins = 5
c.NativeAuthenticator.seconds_before_next_try = 300

# Authorized people without a local account get one: see authenticators.md.
# c.SudoersPolicy.create_accounts = True
