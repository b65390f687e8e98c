"""What the package jupyterhub adds to JupyterHub's own Python code.

``defaults`` wires the hub to the parts of the package, ``authenticator`` and
``spawner`` are the two classes it uses, ``gate`` is how both reach sudo.
``paths``, ``accounts``, ``units`` and ``pam`` name what the machine has, once
for the hub and for ``ctl``.
"""
