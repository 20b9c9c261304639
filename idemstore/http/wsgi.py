"""WSGI middleware, on a sync store and without an event loop. It carries out what ``HttpPolicy`` decides.

- The request body is read only where the policy compares payloads, only up to ``max_request`` bytes, and handed on.
- The response goes to the client as the application gives it. Parts are kept up to ``max_response`` bytes; what is
  larger passes through and is recorded without its body.
- The record is completed before the last part is sent, or, where no length was declared, before the response ends.
- A server that stops reading the response, because its client went away, still has the rest of it recorded.

Wrap an application::

    app.wsgi_app = IdempotencyMiddleware(app.wsgi_app, idemstore.open(url), HttpPolicy(scope=...))  # Flask

The running operation (``fence``, ``attempt``, ``resumed_from``, ``checkpoint``, ``lease_lost``) is
``environ["idemstore.operation"]`` and ``idemstore.operation()``; absent where the request is not guarded.
"""

import inspect
from collections.abc import Iterable

from idemstore.errors import ConfigurationError, IdemstoreError
from idemstore.guard_core import DOWN
from idemstore.http.core import Ask, HttpCore, log
from idemstore.http.facts import Request, Response
from idemstore.http.plans import Answer, Keyed, Pass, Replay, Run
from idemstore.http.policy import HttpPolicy
from idemstore.http.wsgi_run import Running
from idemstore.http.wsgi_types import Cut, Environ, StartResponse, WsgiApp, read_body, read_request, send_response
from idemstore.keepalive import keepalive
from idemstore.keys import redact
from idemstore.outcomes import ClaimOutcome
from idemstore.store import Store


class IdempotencyMiddleware:
    """Wraps a WSGI application. The store stays yours to close; threads and forked workers may share it."""

    def __init__(self, app: WsgiApp, store: Store, policy: HttpPolicy) -> None:
        if not isinstance(store, Store):
            raise ConfigurationError("the WSGI middleware takes a Store: use idemstore.open(url)")
        if inspect.iscoroutinefunction(getattr(policy, "rewrite", None)):
            raise ConfigurationError("HttpPolicy.rewrite is async: the WSGI middleware takes a plain function")
        self.core = HttpCore(store, policy)
        self.app, self.store, self.policy = app, store, policy
        self.heartbeat = keepalive(store)
        self._names = tuple("HTTP_" + name.upper().replace("-", "_") for name in policy.headers)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        if environ["REQUEST_METHOD"] not in self.policy.methods:
            return self.app(environ, start_response)
        if not (self.policy.required or any(name in environ for name in self._names)):
            return self.app(environ, start_response)
        request = read_request(environ)
        try:
            plan = self.policy.plan(request)
        except IdemstoreError as error:
            return send_response(start_response, self.core.trouble(error, request), request.method)
        match plan:
            case Pass():
                return self.app(environ, start_response)
            case Answer(response):
                return send_response(start_response, response, request.method)
            case Keyed():
                return self._keyed(plan, environ, start_response)

    def _keyed(self, keyed: Keyed, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """A request with a key."""
        request, method = keyed.request, keyed.request.method
        try:
            body, truncated = (b"", False) if keyed.reads is None else read_body(environ, keyed.reads)
            guarded = self.policy.identify(keyed, body, truncated=truncated)
            if isinstance(guarded, Answer):
                return send_response(start_response, guarded.response, method)
            ask = self.core.ask(guarded)
        except Cut:
            return send_response(start_response, self.policy.incomplete(request), method)
        except IdemstoreError as error:
            return send_response(start_response, self.core.trouble(error, request), method)
        try:
            outcome = self._claim(ask)
        except DOWN as error:
            if self.core.no_answer(ask, error):
                return self._unprotected(ask, environ, start_response)
            return send_response(start_response, self.core.trouble(error, request), method)
        except IdemstoreError as error:
            return send_response(start_response, self.core.trouble(error, request), method)
        except BaseException:
            self._give_back(ask)
            raise
        return self._met(outcome, ask, environ, start_response)

    def _claim(self, ask: Ask) -> ClaimOutcome:
        """Claim as the policy says."""
        policy = self.policy
        return self.store.claim(
            ask.stored,
            lease=policy.lease,
            retention=policy.retention,
            fingerprint=ask.guarded.fingerprint,
            token=ask.token,
            takeover=policy.takeover,
            wait=policy.wait,
        )

    def _give_back(self, ask: Ask) -> None:
        """A claim that was interrupted (a worker that is stopped) may have been applied: nobody is going to use it."""
        try:
            kept = self.policy.failure_retention
            self.store.fail(ask.guarded.key, ask.token, b"", retention=kept, retry_after=0)
        except IdemstoreError as error:
            self.core.unsure.remember(ask.stored, ask.token)
            log.warning("the interrupted claim of %s could not be given back: %s", redact(ask.stored), error)

    def _unprotected(self, ask: Ask, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Run without a claim. Should one be in force after all, others leave it alone, unless the run fails."""
        try:
            return self.app(environ, start_response)
        except BaseException:
            self.core.unsure.remember(ask.stored, ask.token)
            raise

    def _met(self, outcome: ClaimOutcome, ask: Ask, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The store has answered."""
        request = ask.guarded.request
        try:
            self.core.check_outer(outcome, ask)
            met = self.policy.meet(outcome, ask.guarded)
        except IdemstoreError as error:
            return send_response(start_response, self.core.trouble(error, request), request.method)
        match met:
            case Run(claimed):
                return Running(self, ask, claimed, start_response).run(self.app, environ)
            case Replay(stored):
                return send_response(start_response, self._replay(stored, request), request.method)
            case Answer(response):
                return send_response(start_response, response, request.method)

    def _replay(self, stored: Response, request: Request) -> Response:
        """The answer to a retry, by the policy's hook where it has one."""
        made = self.policy.rewritten(stored, request)
        if not isinstance(made, Response):
            raise ConfigurationError(f"HttpPolicy.rewrite gave a {type(made).__name__}: it is to return a Response")
        return self.policy.replayed(made, request)
