"""ASGI middleware: HTTP only; WebSocket and lifespan pass through. Carries out what ``HttpPolicy`` decides.

The request body is read only where the policy compares payloads, and handed to the application again. The response goes
to the client as the application sends it; a copy is kept up to ``max_response`` bytes, what is longer passes through
unbuffered and is recorded without its body. The application runs in a task of its own, so that a client that disconnects
does not lose the result of work that is done.
"""
