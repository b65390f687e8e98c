# Who may see the admin page: copy this file to /etc/jupyterhub/jupyterhub_config.d/,
# edit it, then `systemctl restart jupyterhub`.
#
# An administrator of the hub can start, stop and open everybody's notebook server,
# and so act as any of its users. Choose people who have root anyway.

c = get_config()  # noqa: F821 (given by JupyterHub)

# Members of these groups of the system; looked up at each login.
c.PAMAuthenticator.admin_groups = {"sudo"}

# And these accounts, whatever their groups.
# c.Authenticator.admin_users = {"alice"}
