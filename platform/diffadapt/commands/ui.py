"""``diffadapt ui``: a local page over a root, which only reads."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from diffadapt.commands.options import RootOption, parse
from diffadapt.core.errors import RecipeError
from diffadapt.core.listening import address, is_alone
from diffadapt.core.ranges import Between, check_limits

TOKEN = "DIFFADAPT_UI_TOKEN"
"""The environment variable with the token, for those who do not want it in the list of processes."""
SHORTEST = 16


@dataclass(frozen=True)
class UiOptions(RootOption):
    host: str = "127.0.0.1"
    """The address to listen at. At one that other machines reach requests need a token."""
    port: Annotated[int, Between(0, 65535)] = 8700
    """0: any that is free."""
    token: str = ""
    """What requests must bear; default: DIFFADAPT_UI_TOKEN, else none at 127.0.0.1, and one that is made and
    printed anywhere else."""
    name: tuple[str, ...] = ()
    """Names by which the page is opened beside localhost and addresses, such as gpu1.example.org."""
    browser: bool = False
    """Open it in the browser."""


def ui(argv: Sequence[str]) -> int:
    from diffadapt.core.redact import redact
    from diffadapt.ui.answers import Answers
    from diffadapt.ui.guard import Guard
    from diffadapt.ui.server import listen, serve

    options = parse(UiOptions, argv, "ui")
    check_limits(options)
    alone, token = is_alone(options.host), (options.token or os.environ.get(TOKEN, "")).strip()
    if token and len(token) < SHORTEST:
        raise RecipeError(
            f"The token has {len(token)} characters, which can be guessed: give one of {SHORTEST} or more,"
            " or none, and one is made."
        )
    if not alone and not token:
        token = secrets.token_urlsafe(24)
    answers = Answers(options.open().location)
    listener = listen(options.host, options.port)
    port = listener.getsockname()[1]
    names = {*options.name, options.host, *([] if alone else [os.uname().nodename])}
    guard = Guard(names, token, f"diffadapt-{port}")
    shown = os.uname().nodename if options.host in ("0.0.0.0", "::") else options.host
    url = f"{address(shown, port)}/" + (f"?token={token}" if token else "")

    def ready() -> None:
        print(f"root      {redact(answers.root.location)}   (only read)")
        print(f"page      {url}")
        if not alone:
            print("          It is sent unencrypted: prefer 127.0.0.1 and `ssh -L` where you can.")
        print("Ctrl-C ends it.", flush=True)
        if options.browser:
            import webbrowser

            webbrowser.open(url)

    try:
        serve(answers, guard, listener, ready)
    except KeyboardInterrupt:
        print("\nThe page is closed.")
    return 0
