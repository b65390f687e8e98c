"""What PAM's functions return. Source: /usr/include/security/_pam_types.h."""

PAM_SUCCESS = 0
PAM_PERM_DENIED = 6
PAM_AUTH_ERR = 7
PAM_USER_UNKNOWN = 10
PAM_MAXTRIES = 11
PAM_NEW_AUTHTOK_REQD = 12
PAM_ACCT_EXPIRED = 13
PAM_AUTHTOK_EXPIRED = 27

PAM_WRONG = {PAM_AUTH_ERR, PAM_USER_UNKNOWN, PAM_MAXTRIES}  # the name or the password is
PAM_CHANGE = {PAM_NEW_AUTHTOK_REQD, PAM_AUTHTOK_EXPIRED}  # the password must be changed first
PAM_DEFINITE = {PAM_PERM_DENIED, PAM_AUTH_ERR, PAM_ACCT_EXPIRED, *PAM_CHANGE}  # no directory that is out of reach, no module that fails
