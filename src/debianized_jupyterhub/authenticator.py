"""Log in with PAM; who may is decided by sudoers alone."""

import asyncio
import os
import socket
import time
from collections.abc import Iterable
from typing import Any

from jupyterhub import orm
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator, PAMAuthenticator
from jupyterhub.handlers.login import LoginHandler
from jupyterhub.utils import maybe_future
from tornado import web
from traitlets import Bool, Integer, Set, Unicode, default

from . import accounts
from .account_ends import AT_A_TIME, Accounts
from .addresses import host_of
from .gate import ACCOUNTS, GateError, ask, ask_helper
from .journal import because, shortened
from .login_check import LoginCheck, LoginCheckError, WaitingLogins
from .pam import PAM_ACCT_EXPIRED, PAM_CHANGE, PAM_PERM_DENIED, PAM_SUCCESS, PAM_WRONG
from .standing import Standing, Standings
from .wrong_logins import FairTurns, WrongLogins

UNAVAILABLE = "Logging in is temporarily unavailable. Please tell your administrator."  # who finds the reason in the hub's log
NAME_MAX = 255  # characters; LOGIN_NAME_MAX of limits.h is 256 with the final NUL
PASSWORD_MAX = 511  # characters; PAM_MAX_RESP_SIZE of _pam_types.h is 512, likewise
START = 0.1  # seconds that a question to sudo may have a core for itself: about what its programs need
NO_ACCOUNT = "the system knows no account of that name: `getent passwd {}`"
REFUSAL = 2  # seconds that a refused password takes at least, whatever was wrong with it; pam_unix asks for as many


class SudoersPolicy(Authenticator):
    """Mix-in for authenticators: a user is allowed if sudo's policy lets the hub spawn for them.

    That is the alias JUPYTER_USERS in /etc/sudoers.d/jupyterhub, so the rule for
    logging in and the rule for spawning cannot disagree. `allowed_users` and
    `allowed_groups`, where a site sets them, narrow it further.
    """

    login_hint = Unicode(config=True, help="Text of the login page: which credentials are meant.")
    wrong_logins_of_account = Integer(20, config=True, help="How many wrong logins of an account there may be within the window; 0 for any number.")
    wrong_logins_of_address = Integer(100, config=True, help="How many there may be from an address of another machine; 0 for any number.")
    wrong_logins_window = Integer(900, config=True, help="Seconds until a wrong login does not count any more.")
    account_service = Unicode("jupyterhub", config=True, help="PAM's service for the account phase before starts, and of those who are logged in.")
    refused_shells = Set(Unicode(), {"nologin", "false"}, config=True, help="An account with such a shell (a name without folders) is not for logins.")
    account_memory = Integer(86400, config=True, help="Seconds for which the last answer about an account counts while there is no newer one.")
    account_timeout = Integer(5, config=True, help="Seconds for which an answer about an account is waited for.")
    account_interval = Integer(60, config=True, help="Seconds between looks whether accounts are gone, or others than before; 0 for none.")
    # Whether a login shows whose the account is now, or whose it was when a password was set at the hub.
    knows_the_account = False
    # Where a provider has shown who somebody is, there is no password to guess, and a reason to be given.
    says_who_is_not_admitted = False

    allow_all: bool
    create_accounts = Bool(config=True, help="Have a local account made for who logs in without one: docs/authenticators.md.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # JupyterHub asks nobody where it is true, neither the site's rules nor sudo.
        self._allow_all, self.allow_all = self.allow_all, False
        # One core stays free for the pages of those who are in.
        self._starts = FairTurns(max(1, (os.cpu_count() or 1) - 1))
        self.wrong_logins = WrongLogins(self.wrong_logins_of_account, self.wrong_logins_of_address, self.wrong_logins_window)
        self._standings = Standings(self.account_service, self.refused_shells, self.account_memory, self.account_timeout)
        self._accounts = Accounts(self.parent, self._standings)

    @default("auth_refresh_strict")
    def _tokens_too(self) -> bool:
        return True

    async def refresh_user(self, user: Any, handler: web.RequestHandler | None = None) -> bool | dict:
        """Return False where the account may not be used any more, or what the authenticator itself says."""
        name = user.name
        standing = await self._standings.of(name)
        if reason := await self._accounts.judge(name, standing) or standing.reason:
            self.log.warning("The login of %s counts no more: %s", name, reason)
            return False
        return await maybe_future(super().refresh_user(user, handler))

    async def why_not_start(self, spawner: Any) -> Standing:
        """Return why the account's server may not be started; without reasons where it may."""
        name = spawner.user.name
        standing = await self._standings.of(name, starts=True)
        if reason := await self._accounts.judge(name, standing, starting=spawner):
            return standing if standing.gone else Standing(reason, "Your account is another one than at your login. Log in again.")
        if not standing.reason and self._accounts.home_is_gone(name, standing):
            words = "Your home folder is gone, or not there at the moment: ask your administrator. If it is to be made anew, log in again first."
            return Standing("the home folder that it had is not there", words)
        return standing

    async def look_at_accounts(self) -> None:
        """End what those have at the hub whose accounts are gone, or others than before."""
        await self._accounts.look()

    async def add_user(self, user: Any) -> None:
        """Take in a user, and note who the account is."""
        await maybe_future(super().add_user(user))
        self._accounts.keep_new(user)

    def check_allow_config(self) -> None:
        """Skip JupyterHub's warning that no rule is set: there always is one, in sudoers."""

    async def get_authenticated_user(self, handler: web.RequestHandler, data: dict | None) -> dict | None:
        """Do what JupyterHub's does, within the limits for wrong logins.

        A refused password takes REFUSAL seconds: the time tells nothing about it either. Raises HTTPError 429 where there were too many.
        """
        if not data or "username" not in data:
            return await super().get_authenticated_user(handler, data)
        begun, user, address = time.monotonic(), data["username"], handler.request.remote_ip or ""
        origins = self.wrong_logins.origins(user, address)
        if seconds := self.wrong_logins.wait(origins):
            self.log.warning("Too many wrong logins of %r at %s: the next is looked at in %d s", shortened(user), address, seconds)
            await asyncio.sleep(REFUSAL)
            raise web.HTTPError(429, f"Invalid username or password, or too many wrong ones before. Try again in {-(-seconds // 60)} minutes.")
        attempt = self.wrong_logins.begin(origins)
        try:
            authenticated = await super().get_authenticated_user(handler, data)
        except BaseException:  # what keeps somebody out is something else
            self.wrong_logins.take_back(origins, attempt)
            raise
        if authenticated is None:
            await asyncio.sleep(begun + REFUSAL - time.monotonic())
            return None
        self.wrong_logins.take_back(origins, attempt)
        self.wrong_logins.succeeded(user, address)
        return authenticated

    async def check_allowed(self, username: str, authentication: dict | None = None) -> bool:
        """Return whether sites' rules and sudo admit the account; raise HTTPError 503 where sudo cannot be asked.

        The login page says the same then as for a wrong password: right ones cannot be told by trying. The journal has the reason.
        """
        reason = await self.why_not_admitted(username, authentication, make=True)
        if not reason:
            await self._require_good_standing(username, authentication)
            return True
        self.log.warning("%s may not log in: %s", username, reason)
        because(reason)
        if self.says_who_is_not_admitted:
            raise web.HTTPError(403, accounts.NOT_ADMITTED.format(username))
        return False

    async def _require_good_standing(self, username: str, authentication: dict | None) -> None:
        """Raise HTTPError 403, with words for the login page, for an account that has shown its password, and may not be used."""
        answer = (authentication or {}).get("standing")  # PAM has told it with the login
        standing = self._standings.told(username, answer, starts=True) if answer else await self._standings.of(username, starts=True)
        if await self._accounts.judge(username, standing, logging_in=True) and not (self.knows_the_account or standing.reason):
            words = f"The account {username} of this server was made anew, and what you had at the hub has ended. Log in again."
            standing = Standing("it is another one than before", words)
        if standing.reason:
            self.log.warning("%s may not log in: %s", username, standing.reason)
            because(standing.reason)
            raise web.HTTPError(403, standing.words)

    async def why_not_admitted(self, username: str, authentication: dict | None, make: bool = False) -> str:
        """Return the rule that keeps an account out, "" if it is admitted; `make` it where create_accounts says so and it is missing.

        Raises HTTPError 503.
        """
        if not await self._site_allows(username, authentication):
            return "allowed_users and the like in the hub's configuration do not admit the account"
        if make and self.create_accounts and not await asyncio.to_thread(accounts.exists, username):
            try:
                await ask_helper(ACCOUNTS, {"user": username}, timeout=30)
            except GateError as error:
                return f"there is no such account, and none was made: {error}"
        try:
            answer = await self._ask_sudo(username)
        except GateError as error:
            self.log.error("Cannot ask sudo whether %s may log in: %s", username, error)
            raise web.HTTPError(503, UNAVAILABLE) from None
        return "" if answer["allowed"] else answer["reason"]

    async def _ask_sudo(self, username: str) -> dict:
        """Return the gate's answer: is the account admitted? A crowd's questions begin in turn, and none waits for one that takes long. Raises GateError."""
        async with self._starts.turn(("user",)):
            asking = asyncio.create_task(ask("allowed", user=username, timeout=30))
            await asyncio.wait([asking], timeout=START)
        return await asking

    async def _site_allows(self, username: str, authentication: dict | None) -> bool:
        """Return whether upstream's own allow rules, where there are any, admit the user."""
        if self._allow_all or not self.any_allow_config:
            return True
        return await maybe_future(super().check_allowed(username, authentication))


class Question(web.HTTPError):
    """PAM has asked something that the login form has no answer to."""

    def __init__(self, id: str, user: str, help: str, asked: dict) -> None:
        super().__init__(403, "%s", asked["ask"])
        self.id, self.user, self.help = id, user, help
        self.words, self.hidden, self.new_password = asked["ask"], asked["hidden"], asked["phase"] == "password"
        self.said = asked["said"] or ("Your password has to be changed." if self.new_password else "")


class PAMLoginHandler(LoginHandler):
    """The login form, and the page for what else PAM asks. Upstream's breaks over bytes that are no UTF-8 while it says that they are none."""

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        return value.decode(errors="replace")

    async def post(self) -> None:
        """Log in, or ask; who has to change the password is not in (403)."""
        try:
            await super().post()
        except Question as question:
            self.set_status(403 if question.new_password else 200)
            await self.finish(await self._render(username=question.user, question=question))


class SudoersPAMAuthenticator(SudoersPolicy, PAMAuthenticator):
    """PAM says who somebody is, sudoers whether they are welcome.

    PAM and NSS are asked by login_check.py, never by the hub itself: a directory may take its time, and the hub's
    pages must not wait for it; and who reads password hashes has another account.
    """

    knows_the_account = True
    concurrent_logins = Integer(32, config=True, help="How many logins are checked at a time; more wait for their turn.")
    login_timeout = Integer(60, config=True, help="Seconds until a login that PAM does not answer is given up.")
    change_password_help = Unicode(config=True, help="What the login page says to somebody whose password must be changed.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._looked_up: dict[str, dict] = {}  # accounts that add_user is about to be asked for
        self._gone: set[str] = set()  # users of the database without an account
        self._waiting = WaitingLogins()
        self._turns = FairTurns(self.concurrent_logins)
        self.change_password_help = self.change_password_help or f"Change it first, for example with `ssh {socket.gethostname()}`, then log in here."

    def get_handlers(self, app: JupyterHub) -> list[tuple[str, type]]:
        return [("/login", PAMLoginHandler)]

    async def authenticate(self, handler: web.RequestHandler, data: dict) -> dict | None:
        """Return the account's name, as the system spells it, and its groups; None if name or password is wrong.

        Raises HTTPError with words for the login page: 400 for half a form, 403 where PAM says what else is
        in the way, 503 where it cannot say. Raises Question where PAM has one, whose answer comes with the next form.
        """
        if {"username", "conversation", "answer"} <= data.keys():
            return await self._continue(handler, data["username"], data["conversation"], data["answer"])
        if not {"username", "password"} <= data.keys():
            raise web.HTTPError(400, "The form has no user name or no password.")
        user = data["username"]
        passwords = [data[field] for field in ("password", "otp") if field in data]
        if not self._is_name(user) or not all(map(self._is_password, passwords)):
            return None
        request = {"service": self.service, "passwords": passwords, "asks": True}
        check, answer = await self._say(user, self._request("login", user, **request), self._turn_of(handler, user))
        if "ask" in answer and not await self._may_be_asked(handler, user, check):
            return None
        return await self._result(handler, user, check, answer)

    async def _may_be_asked(self, handler: web.RequestHandler, user: str, check: LoginCheck) -> bool:
        """Return whether an account is admitted; if not, end its login. What is asked after a right password alone would tell that it is one."""
        reason = "it could not be found out"
        try:
            reason = await self._why_kept_out(user)
        finally:
            if reason:
                check.close()
        if reason:
            self.log.warning("%r at %s may not log in, and is not asked for more than the password: %s", user, handler.request.remote_ip, reason)
        return not reason

    async def _continue(self, handler: web.RequestHandler, user: str, conversation: str, answer: str) -> dict | None:
        """Go on with a login whose user was asked something; return and raise what `authenticate` does."""
        check = self._waiting.take(conversation, user, handler.xsrf_token)
        if check is None:
            raise web.HTTPError(403, "That took too long, or was answered before. Log in again.")
        if len(answer) > PASSWORD_MAX or "\0" in answer:
            check.close()
            return None
        check, more = await self._say(user, {"answer": answer}, self._turn_of(handler, user), check)
        return await self._result(handler, user, check, more)

    def _turn_of(self, handler: web.RequestHandler, user: str) -> tuple[str, ...]:
        """Return a path for FairTurns: a crowd of names that nobody has ever used waits behind one of those who work here."""
        known = "user" if handler.find_user(self.normalize_username(user)) else "stranger"
        return (known, host_of(handler.request.remote_ip or ""), user.casefold())

    async def _result(self, handler: web.RequestHandler, user: str, check: LoginCheck, answer: dict) -> dict | None:
        """Return and raise what `authenticate` does, by what login-check has answered."""
        if "ask" in answer:
            help = f"Not here? {self.change_password_help}" if answer["phase"] == "password" else ""
            raise Question(self._waiting.add(check, user, handler.xsrf_token), user, help, answer)
        if answer["status"] == PAM_SUCCESS:
            # No account: sudo will say so.
            account = answer["account"] or {"name": user, "groups": []}
            return {"name": account["name"], "system_groups": account["groups"], "standing": answer if answer["account"] else None}
        self.log.warning(
            "PAM did not let %r at %s in (%s phase): %s. %s",
            *(shortened(user), handler.request.remote_ip, answer["phase"], answer["reason"], answer["said"]),
        )
        because(answer["reason"])
        await self._note_other_case(user)
        status, words = self._explain(**answer)
        # Of an account that is not admitted nothing is said: its owner is not asked for.
        if status == 503 or (words and not await self._why_kept_out(user)):
            raise web.HTTPError(status, words)
        return None

    async def _note_other_case(self, user: str) -> None:
        """Say in the journal, never on the page, if the name of an account was typed with other letters, large for small."""
        if user != user.lower() and (account := await self._account(user.lower())) and not await self._account(user):
            self.log.warning("There is no account %r, but one that is spelled %s", shortened(user), account["name"])

    async def _why_kept_out(self, user: str) -> str:
        """Return why an account that has not logged in yet could not, whatever PAM says; "" if it could."""
        account = await self._account(user)
        if not account:
            return "the system knows no account of that name"
        name = self.normalize_username(account["name"])
        if not await maybe_future(self.check_blocked_users(name)):
            return "blocked_users in the hub's configuration has it"
        return await self.why_not_admitted(name, {"system_groups": account["groups"]})

    def _explain(self, *, status: int, phase: str, reason: str, said: str, **_: object) -> tuple[int, str]:
        """Return HTTP's status and the words for the login page, none where name or password is wrong."""
        if phase == "password":
            return 403, f"Your password was not changed: {(said or reason).rstrip('.')}. {self.change_password_help}"
        if status in PAM_CHANGE:
            return 403, f"{said or 'Your password has expired.'} {self.change_password_help}"
        if status == PAM_ACCT_EXPIRED:
            return 403, f"{said or 'Your account has expired or is disabled.'} Ask your administrator."
        if status == PAM_PERM_DENIED and phase == "account":
            return 403, said or "Your account may not log in here. Ask your administrator."
        if status == PAM_PERM_DENIED:  # SSSD's answer for both
            doubt = "Your account is locked, or the directory that knows your password is out of reach."
            return 403, said or f"{doubt} Try again later, or ask your administrator."
        if status in PAM_WRONG:
            return 403, said
        return 503, f"Your password cannot be checked now: {reason}. {said} Try again later."

    @staticmethod
    def _is_name(user: str) -> bool:
        """Could this be an account's name? PAM would take what stands before a NUL for it."""
        return 0 < len(user) <= NAME_MAX and user.isprintable() and not set(user) & set("/:")

    @staticmethod
    def _is_password(password: str) -> bool:
        """Could this be a password? Accounts without one are not for logins over a network."""
        return 0 < len(password) <= PASSWORD_MAX and "\0" not in password

    def _request(self, action: str, user: str, **more: object) -> dict[str, object]:
        return {"action": action, "user": user, "groups": [*self.allowed_groups, *self.admin_groups], **more}

    async def _account(self, user: str) -> dict | None:
        """Return what the system knows of an account, None if it knows none. Raises HTTPError 503."""
        _, answer = await self._say(user, self._request("account", user))
        return answer["account"]

    async def _say(self, user: str, line: dict[str, object], turn: tuple[str, ...] = (), check: LoginCheck | None = None) -> tuple[LoginCheck, dict]:
        """Say a line to login-check, to a new one if there is no `check`, when it is the turn of who asks (FairTurns); return it and its answer.

        It has ended then, unless it asks something. Raises HTTPError 503 if there is no answer.
        """
        answer: dict = {}
        try:
            async with self._turns.turn(turn), asyncio.timeout(self.login_timeout):
                if check is None:
                    async with self._starts.turn(turn):
                        check = await LoginCheck.open()
                answer = await check.ask(line)
            return check, answer
        except TimeoutError:
            self.log.error("PAM did not answer for %r in %s s", user, self.login_timeout)
            raise web.HTTPError(503, "Your password cannot be checked now: no answer. Try again later.") from None
        except LoginCheckError as error:
            self.log.error("%s", error)
            raise web.HTTPError(503, UNAVAILABLE) from None
        finally:
            if check and "ask" not in answer:
                check.close()

    @default("account_service")
    def _service_of_logins(self) -> str:
        return self.service

    @default("login_hint")
    def _login_hint(self) -> str:
        return f"Log in with your account of {socket.gethostname()}."

    def normalize_username(self, username: str) -> str:
        """Return the name as it is, or what `username_map` makes of it.

        JupyterHub would lower-case it, which would turn one account into another where names differ
        only in case; `authenticate` has the name from the system, whose spelling counts.
        """
        return self.username_map.get(username, username)

    def check_allowed_groups(self, username: str, authentication: dict | None = None) -> bool:
        """Return whether the login found the account in one of `allowed_groups`."""
        return bool(self.allowed_groups & self._groups_of(authentication))

    def is_admin(self, handler: web.RequestHandler, authentication: dict) -> bool | None:
        """Return whether admin_users or admin_groups name the account; None: leave it as it is."""
        if Authenticator.is_admin(self, handler, authentication):
            return True
        return bool(self.admin_groups & self._groups_of(authentication)) if self.admin_groups else None

    @staticmethod
    def _groups_of(authentication: dict | None) -> set[str]:
        return set((authentication or {}).get("system_groups", ()))

    async def require_accounts(self, names: list[str]) -> None:
        """Look up many names that an administrator adds, which add_user then does not ask for one by one.

        Raises HTTPError 400, with those that are no account's: then nobody is added.
        """
        found, _ = await self._look_up(names)
        wrong = [name for name, account in found.items() if not account]
        wrong += [f"{name} (the system spells it {account['name']})" for name, account in found.items() if account and account["name"] != name]
        if wrong:
            raise web.HTTPError(400, "%s", f"Nobody was added: the system knows no account {', '.join(wrong)}. `getent passwd NAME` shows one that it knows.")
        self._looked_up = {name: account for name, account in found.items() if account}

    async def find_gone(self, names: Iterable[str]) -> None:
        """Look up, at the hub's start, whom of these users (all of the database) add_user shall refuse for `delete_invalid_users`.

        Nobody while the accounts cannot be looked up, nor where a directory could know of them: one that is down knows nobody.
        """
        try:
            found, certain = await self._look_up(list(names))
        except web.HTTPError:  # the log has the reason
            found, certain = {}, False
        if certain:
            self._gone = {name for name, account in found.items() if not account}
        else:
            self.log.warning("c.Authenticator.delete_invalid_users: nobody is deleted now, since a directory could know of accounts that are not found")

    async def _look_up(self, names: list[str]) -> tuple[dict[str, dict | None], bool]:
        """Return each account (None if there is none), and whether no directory could know of more. Raises HTTPError 503."""
        found: dict[str, dict | None] = {}
        certain = True
        for start in range(0, len(names), AT_A_TIME):
            part = names[start : start + AT_A_TIME]
            _, answer = await self._say(part[0], {"action": "accounts", "users": part})
            found |= answer["accounts"]
            certain = certain and answer["certain"]
        return found, certain

    async def add_user(self, user: orm.User) -> None:
        """Check a name that an administrator adds; raise ValueError if it is no account's.

        Users of the hub's database are not looked up one by one at its start, with `delete_invalid_users` neither: see find_gone.
        """
        if isinstance(user, orm.User):
            if user.name in self._gone:
                raise ValueError(NO_ACCOUNT.format(user.name))
        else:
            account = self._looked_up.pop(user.name, None) or await self._account(user.name)
            if not account:
                raise ValueError(NO_ACCOUNT.format(user.name))
            if account["name"] != user.name:
                raise ValueError(f"the system spells the name {account['name']}")
        await maybe_future(Authenticator.add_user(self, user))
        self._accounts.keep_new(user)
