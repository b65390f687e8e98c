"""Runs as the account that checks passwords: does its PAM service work? Exits with 0, or 1 and PAM's words.

`root` takes the account part: that succeeds only where the modules load and /etc/shadow can be read. Then a password that is none, for an
account that nobody can log in with: the answer must be that it is wrong, not that a module is unknown. No failure is counted
for a person, and PAM's delay after it is switched off for this process.
"""

import ctypes
import sys

import pamela

from ...accounts import PROXY
from ...pam import (
    PAM_ACCT_EXPIRED,
    PAM_NEW_AUTHTOK_REQD,
    PAM_PERM_DENIED,
    PAM_SUCCESS,
    PAM_WRONG,
)

FAIL_DELAY = 10  # PAM_FAIL_DELAY of security/_pam_types.h


def main(service: str) -> None:
    """Probe one PAM service (str)."""
    conversation = pamela.new_simple_password_conv(("no password",), "utf-8")
    handle = pamela.pam_start(service, "root", conversation)
    code = pamela.PAM_ACCT_MGMT(handle, 0)
    if code not in (PAM_SUCCESS, PAM_NEW_AUTHTOK_REQD, PAM_ACCT_EXPIRED):
        sys.exit(f"it does not admit even root: {pamela.pam_strerror(handle, code)}")
    pamela.pam_end(handle)

    handle = pamela.pam_start(service, PROXY, conversation)
    no_delay = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)(lambda *_: None)
    # A second handle of the library, since pamela has typed its own for strings.
    ctypes.CDLL(pamela.LIBPAM._name).pam_set_item(handle, FAIL_DELAY, no_delay)
    code = pamela.PAM_AUTHENTICATE(handle, 0)
    if code == PAM_SUCCESS:
        sys.exit("a wrong password is accepted")
    if code not in (*PAM_WRONG, PAM_PERM_DENIED, PAM_ACCT_EXPIRED):
        sys.exit(f"passwords cannot be checked: {pamela.pam_strerror(handle, code)}")


if __name__ == "__main__":
    main(sys.argv[1])
