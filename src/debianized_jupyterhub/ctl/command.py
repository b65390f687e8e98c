"""Other programs that jupyterhub-ctl runs, and what they say."""

import subprocess


def output(*command: str, timeout: float = 10) -> tuple[int, str]:
    """Run a command and return (exit code, what it printed to stdout and stderr as str); 124 after `timeout` seconds, 127 if it is not there."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            env=env,
            start_new_session=True,  # some become another account, which must not get hold of root's terminal (TIOCSTI of ioctl_tty(2))
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer after {timeout} s"
    except OSError as error:
        return 127, f"{command[0]}: {error.strerror}"
    return done.returncode, done.stdout.strip()


def stdout_of(*command: str) -> str:
    """Return what a command prints to stdout (str, without blank ends) in the caller's environment, "" if it is not there."""
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def properties(unit: str, *names: str) -> dict[str, str]:
    """Return the properties called `names` of a unit of systemd (dict of str); an empty one if systemd does not answer."""
    lines = output("systemctl", "show", f"--property={','.join(names)}", unit)[1].splitlines()
    return {key: value for key, equals, value in (line.partition("=") for line in lines) if equals}
