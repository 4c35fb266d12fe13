"""The `tilth` command: a table of commands, each loaded when it is used."""

import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from tilth.cli.failure import interrupted, stop_writing, tell
from tilth.core.errors import MissingError
from tilth.core.version import VERSION

#: Name, module, and the first line of the docstring of the module's function `command`. A module with `COMMANDS` beside
#: it, functions by name, has commands of its own below that one.
Table = tuple[tuple[str, str, str], ...]
COMMANDS: Table = (
    ("import", "tilth.cli.import_", "Turn a trained model into a bundle."),
    ("build", "tilth.cli.build", "Find the fastest build that gives the same answers."),
    ("show", "tilth.cli.show", "Show what is in a bundle."),
    ("explain", "tilth.cli.explain", "Show every candidate with its figures, and why it won or lost."),
    ("run", "tilth.cli.run", "Run a bundle on arrays from a file."),
    ("bench", "tilth.cli.bench", "Measure a bundle's build again on this machine."),
    ("serve", "tilth.cli.serve", "Serve bundles over the Open Inference Protocol, REST and gRPC."),
    ("up", "tilth.cli.up", "Start a control plane: registry, endpoints, users and console."),
    ("down", "tilth.cli.down", "End the control plane of this machine."),
    ("status", "tilth.cli.status", "Show whether a control plane runs on this machine, and how it is."),
    (
        "backup",
        "tilth.cli.backup",
        "Copy all of a control plane into a folder, also while it runs.",
    ),
    ("restore", "tilth.cli.restore", "Put a backup back into an empty home, or check it."),
    ("login", "tilth.cli.login", "Keep the address and token of a control plane."),
    ("logout", "tilth.cli.logout", "Forget the control plane that `tilth login` keeps."),
    ("push", "tilth.cli.push", "Upload a bundle and register it as the next version of a model."),
    ("pull", "tilth.cli.pull", "Fetch the bundle of a model's version."),
    ("models", "tilth.cli.models", "List models; show, change or remove one, its aliases and stages."),
    ("approvals", "tilth.cli.approvals", "List versions that wait for a second person, and decide."),
    ("deploy", "tilth.cli.deploy", "Serve a version at an endpoint, with all traffic or a part."),
    ("promote", "tilth.cli.promote", "Let one version answer everything at an endpoint."),
    ("rollback", "tilth.cli.rollback", "Let an endpoint serve again what it served before."),
    ("endpoints", "tilth.cli.endpoints", "List endpoints; show one, its history, or remove it."),
    ("events", "tilth.cli.events", "Show what happened, follow it, export it, or check the audit log."),
    ("nodes", "tilth.cli.nodes", "List machines of the pool with their devices, or remove one."),
    ("projects", "tilth.cli.projects", "List projects; make or remove one."),
    ("members", "tilth.cli.members", "List who is in a project; add, change or remove somebody."),
    ("users", "tilth.cli.users", "List users; make, change, disable or enable one."),
    ("tokens", "tilth.cli.tokens", "List tokens; make or revoke one."),
    ("devices", "tilth.cli.devices", "List the chips on this machine that can run a build."),
    ("engines", "tilth.cli.engines", "List the engines, installed or not, and the chips they refuse."),
    ("doctor", "tilth.cli.doctor", "Look for what makes builds slow, wrong or unsafe on this machine."),
)

#: What has to be installed for a command, where that is not the client of a control plane.
_EXTRAS = {"serve": "serve", "up": "control", "backup": "control", "restore": "control"}
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class LazyCommand(TyperCommand):
    """A name and a line of help in place of a command, whose module is imported when it is used."""

    def __init__(self, name: str, module: str, summary: str) -> None:
        super().__init__(name, help=summary, short_help=summary, rich_markup_mode=None)
        self.module = module

    def load(self) -> Any:
        """Import the module and return its function `command` as a command of the CLI library.

        The help is the function's docstring up to its `Raises` section.
        """
        # Not at the top: wiring knows the ports and they know numpy, which `tilth --help` does without.
        from tilth import wiring

        module = _loaded(wiring.load, self.module)
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        below = getattr(module, "COMMANDS", {})
        if below:
            app.callback(invoke_without_command=True, help=_help(module.command))(module.command)
            for name, function in below.items():
                app.command(name, help=_help(function))(function)
        else:
            app.command(self.name, help=_help(module.command))(module.command)
        made: Any = typer.main.get_command(app)
        made.name = self.name
        return made

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """Return the context of the command that this stands for."""
        return self.load().make_context(info_name, args, parent, **extra)


def _help(function: Any) -> str:
    return (inspect.getdoc(function) or "").split("\nRaises:")[0].rstrip()


def _loaded(load: Callable[[str], Any], module: str) -> Any:
    """Import the module of a command.

    Raises:
        MissingError: it needs a package that is not installed.
    """
    try:
        return load(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "tilth":
            raise
        name = module.rpartition(".")[2]
        extra = _EXTRAS.get(name, "client")
        raise MissingError(
            f"`tilth {name}` needs a package that is not installed",
            why=f"there is no `{error.name}`",
            hint=f"pip install 'tilth[{extra}]'",
        ) from None


class Group(TyperGroup):
    """The `tilth` command itself."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; interruption becomes an error like every other."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise interrupted() from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tilth {VERSION}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def group(table: Table = COMMANDS) -> Any:
    """Return the whole command line as a group of the CLI library."""
    app = typer.Typer(cls=Group, rich_markup_mode=None, context_settings=_SETTINGS)
    about = "Prove and measure a trained model on every chip a team owns."
    app.callback(invoke_without_command=True, help=about)(_root)
    made: Any = typer.main.get_command(app)
    made.commands = {name: LazyCommand(name, module, summary) for name, module, summary in table}
    return made


def main(argv: list[str] | None = None, table: Table = COMMANDS) -> int:
    """Run the command line and return its exit code; the table is in `docs/reference/exit-codes.md`."""
    arguments = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that cannot show a letter gets its escape instead of a crash.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = group(table).main(arguments, prog_name="tilth", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return stop_writing()
    except KeyboardInterrupt:
        return tell(interrupted(), "--json" in arguments)
    except Exception as error:
        return tell(error, "--json" in arguments)
