# LDAPAuthenticator: passwords are checked by a directory, accounts are local. Where the
# accounts are in the directory, too, leave this and use PAM with SSSD.
# Copy this file to /etc/jupyterhub/jupyterhub_config.d/; read authenticators.md before.
# All settings: https://github.com/jupyterhub/ldapauthenticator

import ssl

c = get_config()  # noqa: F821 (given by JupyterHub)
c.JupyterHub.authenticator_class = "debianized_jupyterhub.authenticators.ldap.SudoersLDAPAuthenticator"

c.LDAPAuthenticator.server_address = "ldap.example.org"
# StartTLS, with a certificate that an authority in /etc/ssl/certs has signed.
c.LDAPAuthenticator.tls_strategy = "before_bind"
c.LDAPAuthenticator.tls_kwargs = {
    "ca_certs_file": "/etc/ssl/certs/ca-certificates.crt",
    "validate": ssl.CERT_REQUIRED,
}
c.LDAPAuthenticator.bind_dn_template = ["uid={username},ou=people,dc=example,dc=org"]
# Who may, beside sudoers: members of one of these groups. Where they are posixGroup of
# RFC 2307: (memberUid={uid}) and ["memberUid"].
c.LDAPAuthenticator.allowed_groups = ["cn=notebooks,ou=groups,dc=example,dc=org"]
c.LDAPAuthenticator.group_search_filter = "(member={userdn})"
c.LDAPAuthenticator.group_attributes = ["member"]
c.SudoersPolicy.login_hint = "Log in with your account of example.org."

# People without a local account get one: see authenticators.md.
# c.SudoersPolicy.create_accounts = True
