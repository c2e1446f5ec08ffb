"""The HTTP API: paths, strict parameters, bounded work, responses, problem documents, and the OpenAPI description.

`app` puts the parts together and is what a worker process imports; `http_protocol` is for the worker too. The other
modules are used inside this folder only. The traps that it closes:

- a misspelled parameter is read as its default (`parameters` refuses it)
- memory grows with slow clients or a long queue (`admission`)
- an error comes back as 200, as plain text or with a stack trace (`problems`, `instrumentation`, `http_protocol`)
- GET and HEAD differ (`instrumentation` makes HEAD a GET whose body is dropped)
"""
