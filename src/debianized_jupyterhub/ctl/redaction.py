"""What a report keeps to itself: secrets in texts by name and form, and in Python whatever is not understood as harmless."""

import ast
import io
import re
import textwrap
import tokenize
import urllib.parse
from collections.abc import Collection, Iterator

MASK = "REDACTED"

# What looks like a secret by its name: the value goes, up to the end of the line, of the string or of the brackets.
_NAME = (
    r"(?!(?-i:NOPASSWD:))(?:[\w.-]*(?:passw(?:or)?d|passphrase|secret|token|api_?key|private_?key|client_?secret|credential|crypt_?key|auth_?key|salt)[\w.-]*"
    r"|[\w.-]*(?:pass|pwd|pw))"
)
_NAMED = rf"""\b{_NAME} ["'\]]* \s* [:=]+ \s*"""
_LITERAL = r"""None\b|True\b|False\b|//"""
_ASSIGNED = re.compile(rf"""(?ix) ( {_NAMED} (?:[bruf]*["'])? ) (?!\s|["']|{_LITERAL}) (?: [^\s"',;&}})\](\[{{]* [(\[{{] [^\n]* | [^\s"',;&}})\]]+ ) """)
_QUOTED = re.compile(rf"""(?ixs) ( {_NAMED} [\[({{]* \s* [bruf]* (\"\"\"|'''|"|') ) .*? \2 """)
_BRACKETS = re.compile(rf"""(?ix) ( {_NAMED} [\[({{] ) [^\])}}]+ """)
# And by its form: passwords in URLs, headers, tokens of 32 characters and more.
_IN_URL = re.compile(r"(\b[\w+.-]+://[^\s/:@'\"]*:)[^\s/'\"]+(?=@)")
_HEADER = re.compile(r"(?i)(\b(?:authorization|cookie|set-cookie|x-xsrftoken)\b[\"']?\s*[:=]\s*[\"']?)[^\n\"']+")
_SCHEME = re.compile(r"(?i)\b((?:bearer|basic|token) )[\w+/=.~-]{8,}")
_LONG = re.compile(r"(?<![\w/.-])(?=[A-Za-z_-]*\d)[A-Za-z0-9_+-]{32,}={0,2}(?![\w/.])")
_KEY = re.compile(r"(?s)-----BEGIN [^-]*PRIVATE KEY-----.*?(?:-----END [^-]*PRIVATE KEY-----|\Z)")


def is_secret_name(name: str) -> bool:
    """Return whether an environment variable or the like is a secret by its name."""
    return bool(re.fullmatch(_NAME, name, re.IGNORECASE))


def redact(text: str, secrets: Collection[str] = ()) -> str:
    """Return `text` without what is, or looks like, a secret."""
    text = redact_forms(text, secrets)
    text = _BRACKETS.sub(_keep_literals, text)
    text = _QUOTED.sub(rf"\1{MASK}\2", text)
    return _ASSIGNED.sub(rf"\1{MASK}", text)


def redact_forms(text: str, secrets: Collection[str] = ()) -> str:
    """Return `text` without `secrets` and what looks like one by its form, whatever its name."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK).replace(urllib.parse.quote(secret, safe=""), MASK)
    text = _KEY.sub(MASK, text)
    for pattern in (_IN_URL, _HEADER, _SCHEME):
        text = pattern.sub(rf"\1{MASK}", text)
    return _LONG.sub(MASK, text)


def _keep_literals(found: re.Match[str]) -> str:
    """Leave brackets with a single string to _QUOTED, which keeps its quotes; mask what other brackets hold."""
    inside = found[0][len(found[1]) :]
    return found[0] if re.fullmatch(r"""\s*[bruf]*(["'])[^"']*\1\s*""", inside) else found[1] + MASK


# -- Python ------------------------------------------------------------------------------------------------------------------------

# Parts of a name, and whole words of one, that make it a secret's.
_PARTS = ("pass", "secret", "token", "cred", "salt", "crypt")
_WORDS = {"pw", "pwd", "pin", "otp", "psk", "key", "keys", "seed", "hash"}
LONGEST = 40  # lines of a setting in comments
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def is_secret(name: str) -> bool:
    """Return whether a name in Python, or an option of a command, is a secret's."""
    words = [word.lower() for word in _WORD.findall(name)]
    return any(part in name.lower() for part in _PARTS) or any(word in _WORDS or word.endswith(("pw", "pwd", "key")) for word in words)


def redact_python(source: str, found: set[str] | None = None) -> str:
    """Return Python code without strings that may be secrets; their values are added to `found`.

    A string is shown where a setting (``c.Class.name = ...``) is given literally and nothing on the way to it has a secret's name. All others are
    masked, comments too unless they are such settings. What Python does not understand is kept back.
    """
    source = source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    try:
        masker = _Masker(source)
        comments = list(_comments(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        line = getattr(error, "lineno", None)
        return f"# not shown: Python does not understand this file{f', line {line}' if line else ''}\n"
    if found is not None:
        found.update(masker.found)
    edits = [(*span, f'"{MASK}"') for span in masker.spans]
    for start, end, text in comments:
        if not any(first <= start < last for first, last in masker.spans):
            edits.append((start, end, text))
    code = source.encode()
    for start, end, text in sorted(edits, reverse=True):
        code = code[:start] + text.encode() + code[end:]
    return code.decode()


def _comments(source: str) -> Iterator[tuple[int, int, str]]:
    """Yield (first byte, byte after it, what to show) of all comments. Lines of comments that follow each other may be one setting."""
    lines, code = source.split("\n"), source.encode()
    starts = _line_starts(lines)
    block: list[tuple[int, int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        row, column = token.start
        start = starts[row - 1] + len(lines[row - 1][:column].encode())
        whole = not lines[row - 1][:column].strip()
        if block and not (whole and block[-1][0] < starts[row - 1] and not code[block[-1][1] : start].strip(b" \t\n")):
            yield from _shown(block)
            block = []
        block.append((start, start + len(token.string.encode()), token.string))
        if not whole:
            yield from _shown(block)
            block = []
    yield from _shown(block)


def _shown(block: list[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Yield the comments of a block as they are shown: the longest runs of lines that are settings, and nothing of the rest."""
    first = 0
    while first < len(block):
        for last in range(min(len(block), first + LONGEST), first, -1):
            lines = _setting("\n".join(text.lstrip("#") for _, _, text in block[first:last]))
            if lines and len(lines) == last - first:
                break
        else:
            last, lines = first + 1, [f" {MASK}"]
        for (start, end, _), line in zip(block[first:last], lines, strict=True):
            yield start, end, f"#{line}"
        first = last


def _setting(text: str) -> list[str] | None:
    """Return the lines of a comment that is nothing but settings, redacted; None for another."""
    try:
        tree = ast.parse(textwrap.dedent(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not tree.body or not all(isinstance(node, ast.Assign) and all(map(_is_setting, node.targets)) for node in tree.body):
        return None
    return [f" {line}" for line in redact_python(textwrap.dedent(text)).split("\n")]


def _line_starts(lines: list[str]) -> list[int]:
    """Return the offset in bytes of each line."""
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()) + 1)
    return starts


def _class_in(target: ast.AST) -> str | None:
    """Return the class whose setting c.Class.name is, None for what is no such setting."""
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Attribute) and isinstance(target.value.value, ast.Name):
        return target.value.attr
    return None


def _is_setting(target: ast.expr) -> bool:
    """Return whether something is assigned to a setting of traitlets, such as c.Class.name or c.Class.name["key"]."""
    while isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        target = target.value
    return _class_in(target) is not None


def _names(target: ast.AST) -> list[str]:
    """Return the names in a target, less those of the classes in settings (c.SharedPasswordAuthenticator.admins is no secret)."""
    names = []
    for node in ast.walk(target):
        if isinstance(node, ast.Name):
            names.append(node.id)
        elif isinstance(node, ast.Attribute):
            names.append(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.append(node.value)
    setting: ast.AST = target
    while isinstance(setting, ast.Subscript):
        setting = setting.value
    if owner := _class_in(setting):
        names.remove(owner)
    return names


def _governing(node: ast.AST) -> list[str]:
    """Return the names that say what the constants right in `node` are."""
    if isinstance(node, ast.keyword | ast.arg):
        return [node.arg or ""]
    return _names(node) if isinstance(node, ast.Compare) else []


class _Masker:
    """Finds what to mask in a piece of code: `spans` (first byte, byte after it), `found` (values under names of secrets)."""

    def __init__(self, source: str) -> None:
        self.spans: list[tuple[int, int]] = []
        self.found: set[str] = set()
        self._starts = _line_starts(source.split("\n"))
        tree = ast.parse(source)
        self._secret: set[str] = set()  # variables whose values become those of secrets
        self._follow(tree)
        self._visit(tree, shown=False, secret=False)

    def _is_secret(self, names: Collection[str]) -> bool:
        return any(name in self._secret or is_secret(name) for name in names)

    def _follow(self, tree: ast.AST) -> None:
        assigned = [(node.targets, node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign)]
        while True:
            more = set()
            for targets, value in assigned:
                if self._is_secret([name for target in targets for name in _names(target)]):
                    more |= {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
            if more <= self._secret:
                return
            self._secret |= more

    def _visit(self, node: ast.AST, shown: bool, secret: bool) -> None:
        """Look at a node and below: is it `shown` as a part of a setting's literal value, does it belong to a `secret` name?"""
        if isinstance(node, ast.Constant):
            number = isinstance(node.value, int | float | complex) and not isinstance(node.value, bool)
            if (secret or not shown) if isinstance(node.value, str | bytes) else secret and number:
                self._mask(node, secret)
        elif isinstance(node, ast.JoinedStr) or type(node).__name__ == "TemplateStr":
            self._mask(node, secret)
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr):
            self._visit_assignment(node, secret)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if key is not None:
                    self._visit(key, shown, secret=False)
                self._visit(value, shown, secret or (key is not None and self._is_secret(_names(key))))
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            # An option before its value, a name beside its value.
            words = [part.value for part in node.elts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            secret = secret or self._is_secret([word for word in words if not re.search(r"\s", word)])
            for part in node.elts:
                self._visit(part, shown, secret)
        else:
            secret = secret or self._is_secret(_governing(node))
            for child in ast.iter_child_nodes(node):
                self._visit(child, shown=isinstance(node, ast.UnaryOp) and shown, secret=secret)

    def _visit_assignment(self, node: ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr, secret: bool) -> None:
        targets: list[ast.expr] = node.targets if isinstance(node, ast.Assign) else [node.target]
        setting = all(map(_is_setting, targets))
        for target in () if setting else targets:
            self._visit(target, shown=False, secret=False)
        if isinstance(node, ast.AnnAssign):
            self._visit(node.annotation, shown=False, secret=False)
        if node.value is not None:
            secret = secret or self._is_secret([name for target in targets for name in _names(target)])
            self._visit(node.value, shown=setting, secret=secret)

    def _mask(self, node: ast.AST, secret: bool) -> None:
        first = self._starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        last = self._starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        self.spans.append((first, last))
        for part in ast.walk(node) if secret else ():
            if isinstance(part, ast.Constant) and isinstance(part.value, str | bytes):
                value = part.value if isinstance(part.value, str) else part.value.decode(errors="replace")
                if not re.fullmatch(r"[A-Z][A-Z0-9_]*|[/-].*", value):  # where it is: a variable of the environment, a file
                    self.found.add(value)
