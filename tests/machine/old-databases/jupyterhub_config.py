"""What the hubs of the old databases are told; the same words for all versions since 1.0."""

c = get_config()  # noqa: F821 (given by JupyterHub)
c.JupyterHub.authenticator_class = "jupyterhub.auth.DummyAuthenticator" if __import__("jupyterhub").version_info < (5,) else "dummy"
c.Authenticator.admin_users = {"alice"}
# whitelist is allowed_users before 1.2
setattr(c.Authenticator, "whitelist" if __import__("jupyterhub").version_info < (1, 2) else "allowed_users", {"bob", "carol"})
c.JupyterHub.load_groups = {"students": ["bob", "carol"], "teachers": ["alice"]}
c.JupyterHub.api_tokens = {"0123456789abcdef0123456789abcdef": "carol"}
