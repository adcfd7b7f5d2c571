"""femtogpt playground"""

import secrets

import click

from ..errors import FemtoError
from .options import FILE, say, say_if_compiling

MOST_MODELS = 4  # side by side
NEEDED = ("starlette", "uvicorn")


@click.command(short_help="Serve models to a browser on this machine.")
@click.option("--model", "models", type=FILE, multiple=True, default=("model.safetensors",),
              show_default="model.safetensors",
              help=f"A model file; may be given up to {MOST_MODELS} times, side by side.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True,
              help="0: any that is free.")
def command(models, port):
    """Serve a page, on this machine alone, in which to try models.

    It streams text and tells of each token how likely it was and what else could have come; it
    draws attention, and the curve of a run that goes on meanwhile. Open the address that is
    printed; Ctrl-C ends it. Needs `pip install 'femtogpt[web]'`.

    \b
    Example:
      femtogpt playground
      femtogpt playground --model a.safetensors --model b.safetensors --port 8000
    """
    if len(models) > MOST_MODELS:
        raise click.UsageError(f"{len(models)} models were given: {MOST_MODELS} stand side by side")
    try:
        from ..playground import server
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in NEEDED:
            raise
        raise FemtoError("the playground needs a web server: pip install 'femtogpt[web]'") from None
    from ..playground.models import Served, warm

    listener = server.listen(port)
    served = [Served(model) for model in models]
    for one in served:
        say_if_compiling(one.reading().model.tokenizer)
    say_if_compiling(what="text")
    for text in warm(served):
        say(f"warning: {text}")
    token = secrets.token_urlsafe()
    port = listener.getsockname()[1]
    click.echo(f"http://{server.HOST}:{port}/?token={token}")
    say("open this address in a browser; Ctrl-C ends the playground")
    server.serve(served, token, listener)
