"""The HTTP API: routes, responses, problem documents, and the limits on work in progress."""
