# JupyterHub's configuration: a Python file, read at each start of the hub
# (`systemctl restart jupyterhub`; notebooks keep running).
#
# All settings:  https://jupyterhub.readthedocs.io/en/stable/reference/config-reference.html
# This package:  /usr/share/doc/jupyterhub/README.md
#
# Not here, but in
#   /etc/default/jupyterhub      address, log level, administrators, announcement
#   /etc/sudoers.d/jupyterhub    who may log in and start a notebook server
#   jupyterhub_config.d/*.py     your own settings: files of yours, read after
#                                this one, that no upgrade asks questions about

from debianized_jupyterhub import defaults

c = get_config()  # noqa: F821 (given by JupyterHub)
defaults.apply(c)  # the package's sockets, folders, authenticator and spawner

# What users see after login: /lab, /tree (Notebook 7), or a file below their home.
c.Spawner.default_url = "/lab"

defaults.load_config_d(load_subconfig)  # noqa: F821 (given by JupyterHub)
