"""ASGI middleware: HTTP only; WebSocket and lifespan pass through. It carries out what ``HttpPolicy`` decides.

- The request body is read only where the policy compares payloads, only up to ``max_request`` bytes, and handed on.
- The response goes to the client as the application sends it. Parts are kept up to ``max_response`` bytes; what is
  larger passes through and is recorded without its body.
- The record is completed before the last part is sent, so a client that has its answer finds it stored.
- The application runs in a task of its own: where the client goes away, or the server cancels the request, it goes on
  to its end, and the retry gets its response.

Wrap an application, or have a framework do it::

    app = IdempotencyMiddleware(app, idemstore.open_async(url), HttpPolicy(scope=...))
    app.add_middleware(IdempotencyMiddleware, store=store, policy=policy)  # Starlette, FastAPI

The running operation (``fence``, ``attempt``, ``resumed_from``, ``checkpoint``, ``lease_lost``) is
``scope["idemstore.operation"]`` and ``idemstore.async_operation()``; absent where the request is not guarded.
"""

import asyncio
from collections.abc import Awaitable
from functools import partial

from idemstore.async_insist import outlast
from idemstore.async_keepalive import async_keepalive
from idemstore.async_store import AsyncStore
from idemstore.errors import ConfigurationError, IdemstoreError
from idemstore.guard_core import DOWN
from idemstore.http.asgi_run import Running
from idemstore.http.asgi_types import AsgiApp, Incoming, Receive, Scope, Send, read_request, send_response
from idemstore.http.core import Ask, HttpCore, log
from idemstore.http.facts import Request, Response
from idemstore.http.plans import Answer, Keyed, Replay, Run
from idemstore.http.policy import HttpPolicy
from idemstore.keys import redact
from idemstore.outcomes import Claimed, ClaimOutcome


class IdempotencyMiddleware:
    """Wraps an ASGI application. The store stays yours to close; it belongs to the loop that the application is on."""

    def __init__(self, app: AsgiApp, store: AsyncStore, policy: HttpPolicy) -> None:
        if not isinstance(store, AsyncStore):
            raise ConfigurationError("the ASGI middleware takes an AsyncStore: use idemstore.open_async(url)")
        self.core = HttpCore(store, policy)
        self.app, self.store, self.policy = app, store, policy
        self.heartbeat = async_keepalive(store)
        self._names = frozenset(name.encode() for name in policy.headers)
        self.tasks = set[asyncio.Task[None]]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http" or scope["method"] not in self.policy.methods:
            return await self.app(scope, receive, send)
        if not self.policy.required:
            names = self._names
            for name, _ in scope["headers"]:
                if name in names:
                    break
            else:
                return await self.app(scope, receive, send)
        request = read_request(scope)
        try:
            plan = self.policy.plan(request)
        except IdemstoreError as error:
            plan = Answer(self.core.trouble(error, request))
        if isinstance(plan, Keyed):
            return await self._keyed(plan, scope, Incoming(receive), send)
        if isinstance(plan, Answer):
            return await send_response(send, plan.response, request.method)
        return await self.app(scope, receive, send)

    async def _keyed(self, keyed: Keyed, scope: Scope, incoming: Incoming, send: Send) -> None:
        """A request with a key."""
        request, _, _, reads = keyed
        if reads is not None and not await incoming.read(reads):
            return None  # the client went away before its request was whole
        try:
            guarded = self.policy.identify(keyed, incoming.body, truncated=incoming.truncated)
            if isinstance(guarded, Answer):
                return await send_response(send, guarded.response, request.method)
            ask = self.core.ask(guarded)
        except IdemstoreError as error:
            return await send_response(send, self.core.trouble(error, request), request.method)
        try:
            outcome = await self._claim(ask)
        except DOWN as error:
            if self.core.no_answer(ask, error):
                return await self._unprotected(ask, scope, incoming, send)
            return await send_response(send, self.core.trouble(error, request), request.method)
        except IdemstoreError as error:
            return await send_response(send, self.core.trouble(error, request), request.method)
        except asyncio.CancelledError:
            await outlast(partial(self._give_back, ask))
            raise
        if isinstance(outcome, Claimed):  # which is all that ``meet`` would say of it
            return await Running(self, ask, outcome, incoming, send).serve(self.app, scope)
        return await send_response(send, await self._met(outcome, ask), request.method)

    def _claim(self, ask: Ask) -> Awaitable[ClaimOutcome]:
        """Claim as the policy says."""
        policy, (guarded, stored, token) = self.policy, ask
        return self.store.claim(
            stored,
            lease=policy.lease,
            retention=policy.retention,
            fingerprint=guarded.fingerprint,
            token=token,
            takeover=policy.takeover,
            wait=policy.wait,
        )

    async def _give_back(self, ask: Ask) -> None:
        """A claim that was cancelled may have been applied, and nobody is going to use it."""
        try:
            kept = self.policy.failure_retention
            await self.store.fail(ask.guarded.key, ask.token, b"", retention=kept, retry_after=0)
        except IdemstoreError as error:
            self.core.unsure.remember(ask.stored, ask.token)
            log.warning("the cancelled claim of %s could not be given back: %s", redact(ask.stored), error)

    async def _unprotected(self, ask: Ask, scope: Scope, incoming: Incoming, send: Send) -> None:
        """Run without a claim. Should one be in force after all, others leave it alone, unless the run fails."""
        try:
            await self.app(scope, incoming.receive, send)
        except BaseException:
            self.core.unsure.remember(ask.stored, ask.token)
            raise

    async def _met(self, outcome: ClaimOutcome, ask: Ask) -> Response:
        """The answer where the application does not run."""
        request = ask.guarded.request
        try:
            self.core.check_outer(outcome, ask)
            met = self.policy.meet(outcome, ask.guarded)
        except IdemstoreError as error:
            return self.core.trouble(error, request)
        match met:
            case Run():
                raise AssertionError("a claim is run, not answered")
            case Replay(stored):
                return await self._replay(stored, request)
            case Answer(response):
                return response

    async def _replay(self, stored: Response, request: Request) -> Response:
        """The answer to a retry, by the policy's hook where it has one."""
        made = self.policy.rewritten(stored, request)
        return self.policy.replayed(made if isinstance(made, Response) else await made, request)
