"""Tokens: what programs present in place of a user."""

from collections.abc import Iterator

from tilth.client.noun import Noun
from tilth.client.pages import pages
from tilth.client.shapes.shape import Listing
from tilth.client.shapes.who import MadeToken, NewToken, Token, TokenRole
from tilth.client.wire import made, path_of


class Tokens(Noun):
    """Your tokens, and all of them for an administrator. Every method raises TilthError as the control plane says."""

    def list(self) -> Iterator[Token]:
        """Yield tokens, newest first."""
        return pages(self.wire, Listing[Token], path_of("tokens"))

    def get(self, token_id: str) -> Token:
        """Return a token without its secret."""
        return self.wire.get(Token, path_of("tokens", token_id))

    def make(
        self,
        name: str,
        *,
        user: str | None = None,
        project: str | None = None,
        role: TokenRole | None = None,
        expires_in_s: int | None = None,
    ) -> MadeToken:
        """Make a token; its secret is in the answer, this once. None of `project` and `role` does not narrow it."""
        order = made(NewToken, name=name, user=user, project=project, role=role, expires_in_s=expires_in_s)
        return self.wire.post(MadeToken, path_of("tokens"), order)

    def revoke(self, token_id: str) -> None:
        """End a token."""
        self.wire.remove(path_of("tokens", token_id))
