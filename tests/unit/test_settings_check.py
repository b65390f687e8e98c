"""What every account of the machine may read of a wrong setting."""

import pytest

from debianized_jupyterhub.settings_check import Problem

# what JupyterHub or Python says: what of it is for everybody
PUBLIC = {
    "The 'password' trait of a MyAuthenticator instance expected a unicode string, not the int 31415926.": (
        "The 'password' trait of a MyAuthenticator instance expected a unicode string"
    ),
    "The 'port' trait of a Hub instance should be one of 1, but a value of 'hunter2' <class 'str'> was specified": "The 'port' trait of a Hub instance",
    "Could not decode 'hunter2'": "a setting that is wrong",
    "ValueError: invalid literal for int() with base 10: 'hunter2'": "ValueError",
    "KeyError: 'hunter2'": "KeyError",
    "SystemExit: hunter2": "SystemExit",
    "SyntaxError: '{' was never closed": "SyntaxError: '{' was never closed",
    "NameError: name 'bind_dn' is not defined": "NameError: name 'bind_dn' is not defined",
    "c.JupyterHub.internal_ssl does not work with jupyterhub-proxy.service": "c.JupyterHub.internal_ssl does not work with jupyterhub-proxy.service",
}


@pytest.mark.parametrize("said", PUBLIC)
def test_values_stay_private(said):
    assert Problem("fatal", said, "correct that line", "/etc/x.py", 7).in_public() == f"/etc/x.py:7: {PUBLIC[said]}"
