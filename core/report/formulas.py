"""Formulas in a small part of TeX, as MathML for a page and as Typst for a PDF.

>>> to_mathml("y = W x")
'<math><mi>y</mi><mo>=</mo><mi>W</mi><mi>x</mi></math>'
>>> to_typst(r"h_t = \\tanh(a_t)")
'attach(h, b: t) = op("tanh") \\\\( attach(a, b: t) \\\\)'

Known are letters, numbers, signs, `^` and `_`, groups in braces, `\\frac`, `\\sqrt`, `\\hat`,
`\\text`, `\\operatorname`, `\\mathrm`, `\\mathcal`, the names of SYMBOLS and FUNCTIONS, and,
between lines of a displayed formula, `&` and `\\\\`.
"""

# ruff: noqa: RUF001 (letters of formulas look like others)

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

SYMBOLS = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "epsilon": "ε",
    "eta": "η",
    "theta": "θ",
    "lambda": "λ",
    "mu": "μ",
    "rho": "ρ",
    "sigma": "σ",
    "phi": "ϕ",
    "Phi": "Φ",
    "partial": "∂",
    "nabla": "∇",
    "sum": "∑",
    "prod": "∏",
    "top": "⊤",
    "odot": "⊙",
    "cdot": "⋅",
    "times": "×",
    "in": "∈",
    "infty": "∞",
    "le": "≤",
    "ge": "≥",
    "ne": "≠",
    "approx": "≈",
    "to": "→",
    "leftarrow": "←",
    "ldots": "…",
    "pm": "±",
    "ast": "∗",
    "lceil": "⌈",
    "rceil": "⌉",
    "Delta": "Δ",
    "mid": "|",
}
LETTERS = frozenset("αβγδεηθλμρσϕΦΔ∞⊤")  # the symbols that are names, not operators
FUNCTIONS = ("tanh", "exp", "log", "max", "min", "softmax", "gelu", "relu", "diag", "clip")
SPACES = {
    ",": ("0.17em", "thin"),
    ";": ("0.28em", "med"),
    "quad": ("1em", "quad"),
    "qquad": ("2em", "wide"),
}
SCRIPTS = {"L": "ℒ", "N": "𝒩", "B": "ℬ"}  # of \mathcal
TOKEN = re.compile(r"\\([A-Za-z]+|.)|(\d+(?:\.\d+)?)|\s+|(.)", re.DOTALL)
TEXTUAL = ("text", "operatorname", "mathrm")  # their argument is no formula


class Node(NamedTuple):
    """A part of a formula: its kind, its text, and the parts that it is made of."""

    kind: str
    text: str = ""
    parts: tuple = ()


def to_mathml(tex: str, display: bool = False, large: bool = False) -> str:
    """Return a formula as a `<math>` element.

    Args:
        tex: The formula.
        display: True for a line of its own, False for one in a text.
        large: As large as on a line of its own, within a text.

    Raises:
        ValueError: If the formula has a command that is not known, or braces that do not match.
    """
    block = ' display="block"' if display else ' displaystyle="true"' if large else ""
    return f"<math{block}>{_mathml_lines(parsed(tex))}</math>"


def to_typst(tex: str) -> str:
    """Return a formula as Typst has it between dollar signs.

    Args:
        tex: The formula.

    Raises:
        ValueError: As `to_mathml`.
    """
    lines = [[_typst(cell) for cell in line] for line in parsed(tex)]
    return " \\ ".join(" & ".join(cells) for cells in lines)


def parsed(tex: str) -> list[list[Node]]:
    """Return the lines of a formula, each with the cells between its `&`."""
    tokens = list(_tokens(tex))
    lines: list[list[list[Node]]] = [[[]]]
    while tokens:
        kind, text = tokens[0]
        if kind == "space":
            tokens.pop(0)
        elif (kind, text) == ("char", "&"):
            tokens.pop(0)
            lines[-1].append([])
        elif (kind, text) == ("command", "\\"):
            tokens.pop(0)
            lines.append([[]])
        else:
            lines[-1][-1].append(_scripted(tokens, tex))
    return [[Node("row", parts=tuple(cell)) for cell in line] for line in lines]


def _tokens(tex: str) -> Iterator[tuple[str, str]]:
    for found in TOKEN.finditer(tex):
        command, number, char = found.groups()
        if command is not None:
            yield "command", command
        elif number is not None:
            yield "number", number
        elif char is not None:
            yield "char", char
        else:
            yield "space", " "


def _scripted(tokens: list, tex: str) -> Node:
    """Take one part off the tokens, with what stands above and below it."""
    base = _atom(tokens, tex)
    scripts: dict[str, Node] = {}
    while tokens and tokens[0] in (("char", "^"), ("char", "_")):
        _, mark = tokens.pop(0)
        scripts[mark] = _atom(tokens, tex)
    if not scripts:
        return base
    return Node("scripts", "".join(scripts), (base, *scripts.values()))


def _atom(tokens: list, tex: str) -> Node:
    while tokens and tokens[0][0] == "space":
        tokens.pop(0)
    if not tokens:
        return Node("row")
    kind, text = tokens.pop(0)
    if kind == "command":
        return _command(text, tokens, tex)
    if kind == "number":
        return Node("number", text)
    if text == "{":
        return Node("row", parts=tuple(_group(tokens, tex)))
    if text in "}^_&":
        raise ValueError(f"formula {tex}: {text} without what belongs to it")
    return Node("letter" if text.isalpha() else "sign", text)


def _group(tokens: list, tex: str) -> Iterator[Node]:
    while tokens and tokens[0] != ("char", "}"):
        if tokens[0][0] == "space":
            tokens.pop(0)
        else:
            yield _scripted(tokens, tex)
    if not tokens:
        raise ValueError(f"formula {tex}: a brace is not closed")
    tokens.pop(0)


def _command(name: str, tokens: list, tex: str) -> Node:
    if name in SYMBOLS:
        symbol = SYMBOLS[name]
        return Node("letter" if symbol in LETTERS else "sign", symbol)
    if name in FUNCTIONS:
        return Node("function", name)
    if name in SPACES:
        return Node("space", name)
    if name in TEXTUAL:
        return Node("text" if name == "text" else "function", _literal(tokens, tex))
    if name == "mathcal":
        letter = _literal(tokens, tex)
        if letter not in SCRIPTS:
            raise ValueError(f"formula {tex}: \\mathcal takes {', '.join(SCRIPTS)}, not {letter}")
        return Node("letter", SCRIPTS[letter])
    if name == "frac":
        return Node("frac", parts=(_atom(tokens, tex), _atom(tokens, tex)))
    if name in ("sqrt", "hat", "bar"):
        return Node(name, parts=(_atom(tokens, tex),))
    raise ValueError(f"formula {tex}: unknown command \\{name}")


def _literal(tokens: list, tex: str) -> str:
    """Take a text in braces off the tokens."""
    if not tokens or tokens.pop(0) != ("char", "{") or ("char", "}") not in tokens:
        raise ValueError(f"formula {tex}: a text needs braces around it")
    end = tokens.index(("char", "}"))
    text = "".join(text for _, text in tokens[:end])
    del tokens[: end + 1]
    return text


# --- MathML ---------------------------------------------------------------------------------------

ACCENTS = {"hat": "^", "bar": "¯"}
LIMITS = "∑∏"  # what has its bounds above and below it where there is room


def _mathml_lines(lines: list[list[Node]]) -> str:
    if len(lines) == 1 and len(lines[0]) == 1:
        return "".join(map(_mathml, lines[0][0].parts))
    rows = (
        f"<mtr>{''.join(f'<mtd>{_mathml(cell)}</mtd>' for cell in cells)}</mtr>" for cells in lines
    )
    return f'<mtable displaystyle="true">{"".join(rows)}</mtable>'


def _mathml(node: Node) -> str:
    inner = [_mathml(part) for part in node.parts]
    text = html.escape(node.text.replace("-", "−") if node.kind == "sign" else node.text)
    if node.kind == "row":
        return inner[0] if len(inner) == 1 else f"<mrow>{''.join(inner)}</mrow>"
    if node.kind == "scripts":
        return _mathml_scripts(node, inner)
    if node.kind == "space":
        width = SPACES[node.text][0] if node.text in SPACES else "0.17em"
        return f'<mspace width="{width}"/>' if node.text in SPACES else ""
    if node.kind in ACCENTS:
        accent = f'<mo stretchy="false">{ACCENTS[node.kind]}</mo>'
        return f'<mover accent="true">{inner[0]}{accent}</mover>'
    if node.kind == "text":  # spaces at its ends are kept
        return f"<mtext>{text.replace(' ', chr(160))}</mtext>"
    tags = {"letter": "mi", "function": "mi", "number": "mn", "sign": "mo"}
    if node.kind in tags:
        tag = tags[node.kind]
        upright = ' mathvariant="normal"' if node.text == "⊤" else ""
        return f"<{tag}{upright}>{text}</{tag}>"
    return f"<m{node.kind}>{''.join(inner)}</m{node.kind}>"


def _mathml_scripts(node: Node, inner: list[str]) -> str:
    base, *scripts = inner
    above_below = node.parts[0].text in LIMITS and bool(node.parts[0].text)
    names = {"^": "over", "_": "under"} if above_below else {"^": "sup", "_": "sub"}
    if len(scripts) == 1:
        return f"<m{names[node.text]}>{base}{scripts[0]}</m{names[node.text]}>"
    lower, upper = scripts if node.text == "_^" else reversed(scripts)
    both = "underover" if above_below else "subsup"
    return f"<m{both}>{base}{lower}{upper}</m{both}>"


# --- Typst ----------------------------------------------------------------------------------------


def _typst(node: Node) -> str:
    inner = [_typst(part) for part in node.parts]
    if node.kind == "row":
        return " ".join(filter(None, inner))
    if node.kind == "scripts":
        places = {"^": "t", "_": "b"}
        named = [f"{places[mark]}: {part}" for mark, part in zip(node.text, inner[1:], strict=True)]
        return f"attach({', '.join([inner[0], *named])})"
    if node.kind == "space":
        return SPACES[node.text][1] if node.text in SPACES else ""
    if node.kind == "function":
        return f'op("{node.text}")'
    if node.kind == "text":
        escaped = node.text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if node.kind == "sign" and node.text.isascii() and not node.text.isspace():
        return node.text if node.text in "=+<>" else "−" if node.text == "-" else f"\\{node.text}"
    if node.kind in ("letter", "number", "sign"):
        return node.text
    name = {"bar": "overline"}.get(node.kind, node.kind)
    return f"{name}({', '.join(inner)})"
