# FirstUseAuthenticator, for closed networks: the first password that somebody uses is
# theirs from then on. They change it on /hub/auth/change-password.
# Copy this file to /etc/jupyterhub/jupyterhub_config.d/; read authenticators.md before.
# All settings: https://github.com/jupyterhub/firstuseauthenticator

c = get_config()  # noqa: F821 (given by JupyterHub)
c.JupyterHub.authenticator_class = "debianized_jupyterhub.authenticators.firstuse.SudoersFirstUseAuthenticator"

# Only these names can be taken. Ask their owners to log in at once: whoever is first
# has the account.
c.Authenticator.allowed_users = {"ada", "grace"}
c.FirstUseAuthenticator.create_users = False

c.FirstUseAuthenticator.dbm_path = "/var/opt/jupyterhub/passwords.dbm"
c.FirstUseAuthenticator.min_password_length = 10
c.SudoersPolicy.login_hint = "The first password that you use here becomes yours."

# People without a local account get one: see authenticators.md.
# c.SudoersPolicy.create_accounts = True
